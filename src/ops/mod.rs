//! What looks at the database and the state directory together.

pub mod bench;
pub mod doctor;
pub mod prune;
