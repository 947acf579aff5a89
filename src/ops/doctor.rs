//! Looks for whatever is wrong: invariants, guards, schema, containment.
//!
//! Never repairs anything.
