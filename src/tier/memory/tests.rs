//! What the memory tier promises of sizes, bounds and eviction, seen from inside.

use super::*;

#[test]
fn a_record_takes_what_its_doc_says() {
    assert_eq!(size_of::<Record>(), 216);
}
