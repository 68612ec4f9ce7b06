//! A [`Rule`] of the contract, and its failures: [`Violation`] and [`Violations`].

use std::{error::Error, fmt};

use super::{
    trial::{Fault, Outcome, Trial},
    wait::Job,
};

pub(super) type Check = for<'a> fn(&'a Trial<'a>) -> Job<'a, Outcome>;

/// A rule that each shared store keeps.
///
/// Two rules are equal if they have the same name.
#[derive(Clone, Copy)]
pub struct Rule {
    name: &'static str,
    statement: &'static str,
    over_time: bool,
    pub(super) check: Check,
}

impl Rule {
    pub(super) const fn new(name: &'static str, statement: &'static str, check: Check) -> Self {
        Self { name, statement, over_time: false, check }
    }

    /// The rule needs records that expire while the rule waits.
    pub(super) const fn over_time(mut self) -> Self {
        self.over_time = true;
        self
    }

    /// The name of the rule, in snake case. A later version of this crate may add rules, and renames none.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The sentence that a store makes true.
    pub const fn statement(&self) -> &'static str {
        self.statement
    }

    /// Whether the rule waits until records expire: see [`Suite::without_expiry`](super::Suite::without_expiry).
    pub const fn needs_expiry(&self) -> bool {
        self.over_time
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.name).finish()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A rule that a store breaks, with the expected and the given answer.
pub struct Violation {
    rule: Rule,
    fault: Fault,
}

impl Violation {
    pub(super) const fn new(rule: Rule, fault: Fault) -> Self {
        Self { rule, fault }
    }

    /// The broken rule.
    pub const fn rule(&self) -> Rule {
        self.rule
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {}", self.rule.name, self.rule.statement, self.fault.0)
    }
}

/// Shows the same text as `Display`: a failed test shows `Debug`.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Violation {}

/// The rules that a store breaks, at least one.
pub struct Violations {
    store: &'static str,
    violations: Vec<Violation>,
}

impl Violations {
    pub(super) const fn new(store: &'static str, violations: Vec<Violation>) -> Self {
        Self { store, violations }
    }

    /// The broken rules, in the order of [`Rule::all`].
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.violations.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.violations.len();
        write!(f, "the store `{}` breaks {count} {}:", self.store, if count == 1 { "rule" } else { "rules" })?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n- {violation}"))
    }
}

/// Shows the same text as `Display`: a failed test shows `Debug`.
impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Violations {}
