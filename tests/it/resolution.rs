//! The value that a read returns.
//!
//! - `order`: the tier that answers
//! - `sources`: computed tiers that are late or fail
//! - `principals`: the user to whom a value belongs
//! - `valid_values`: values that a type takes or refuses
//! - `value_types`: builds that differ in the type of a value

mod order;
mod principals;
mod sources;
mod valid_values;
mod value_types;
