//! [`Schema`]: the declared values of a chain, without their Rust types.

use std::{any::TypeId, time::Duration};

use super::{
    Json, Placement, Scope, SessionValue, ValueError,
    json::{decode, normalize},
};
use crate::error::{BuildError, BuildErrorKind};

/// A declared value's position in the order of declaration.
pub(crate) type ValueIndex = u16;

/// The properties of a declared value, independent of the Rust type.
#[derive(Clone, Copy)]
pub(crate) struct ValueSpec {
    pub(crate) name: &'static str,
    pub(crate) type_id: TypeId,
    pub(crate) scope: Scope,
    pub(crate) placement: Placement,
    pub(crate) max_age: Option<Duration>,
    /// Checks that bytes are a valid value of the type.
    pub(crate) check: fn(&[u8]) -> Result<(), ValueError>,
    /// Decodes, validates and encodes again. Returns the bytes that the type itself would write.
    pub(crate) normalize: fn(&[u8]) -> Result<Json, ValueError>,
}

impl ValueSpec {
    pub(crate) fn of<V: SessionValue>() -> Self {
        Self {
            name: V::NAME,
            type_id: TypeId::of::<V>(),
            scope: V::SCOPE,
            placement: V::PLACEMENT,
            max_age: V::MAX_AGE,
            check: |json| decode::<V>(json).map(drop),
            normalize: normalize::<V>,
        }
    }

    /// Whether the browser's cookie carries the value.
    pub(crate) fn in_cookie(&self) -> bool {
        self.placement == Placement::Everywhere
    }
}

/// All declared values, in the order of declaration.
#[derive(Clone, Default)]
pub(crate) struct Schema(Vec<ValueSpec>);

impl Schema {
    pub(crate) fn push(&mut self, declared: ValueSpec) {
        self.0.push(declared);
    }

    pub(crate) fn get(&self, number: ValueIndex) -> &ValueSpec {
        &self.0[usize::from(number)]
    }

    /// Returns a type's index by a linear search: chains declare few values, and a comparison of two type ids costs
    /// less than a hash.
    pub(crate) fn index_of<V: SessionValue>(&self) -> Option<ValueIndex> {
        self.index_of_type(TypeId::of::<V>())
    }

    pub(crate) fn index_of_type(&self, type_id: TypeId) -> Option<ValueIndex> {
        self.find(|declared| declared.type_id == type_id)
    }

    pub(crate) fn index_by_name(&self, name: &str) -> Option<ValueIndex> {
        self.index_by_bytes(name.as_bytes())
    }

    /// Returns the index of a name from a token. The bytes need no UTF-8 check: bytes that equal a declared name are
    /// text.
    pub(crate) fn index_by_bytes(&self, name: &[u8]) -> Option<ValueIndex> {
        self.find(|declared| declared.name.as_bytes() == name)
    }

    fn find(&self, matches: impl Fn(&ValueSpec) -> bool) -> Option<ValueIndex> {
        self.0.iter().position(matches).map(|at| at as ValueIndex)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ValueIndex, &ValueSpec)> {
        (0..).zip(&self.0)
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// The length of the longest wire name, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// Checks a wire name.
///
/// The check also refuses `constructor` and `prototype`, against prototype pollution: a script may use the name as a
/// property name. The alphabet refuses `__proto__`.
pub(crate) fn check_name(name: &str) -> Result<(), BuildError> {
    let mut bytes = name.bytes();
    let well_formed = name.len() <= MAX_NAME
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if well_formed && !matches!(name, "constructor" | "prototype") {
        return Ok(());
    }
    Err(BuildErrorKind::Value.error(format!(
        "{name:?} can't be the `NAME` of a value: use a letter and then up to 63 letters, digits, `_`, `.` or `-`, and \
         neither `constructor` nor `prototype`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_are_refused() {
        let longest = format!("a{}", "b".repeat(63));
        for good in ["a", "A9", "current_division_id", "a.b-c_d", &longest] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let too_long = format!("a{}", "b".repeat(64));
        for bad in
            ["", "9a", "_a", "__proto__", "constructor", "prototype", "a b", "a=b", "ä", "a;b", "$relay", &too_long]
        {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
