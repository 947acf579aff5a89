//! What looks at the database and the state directory together.

pub mod doctor;
pub mod prune;
