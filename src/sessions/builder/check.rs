//! The checks of a configuration: each error names its remedy.

use std::sync::Arc;

use super::SessionsBuilder;
use crate::{
    config::Identity,
    error::{BuildError, BuildErrorKind},
    record::write::Budget,
    tier::shared::SharedTier,
    time::Clock,
    value::{self, Placement, Schema, Scope},
};

impl SessionsBuilder {
    pub(super) fn schema(&mut self) -> Result<Schema, BuildError> {
        let mut schema = Schema::default();
        if let Some((user, _)) = &self.identify_by
            && !self.values.iter().any(|declared| declared.type_id == user.type_id)
        {
            self.values.insert(0, *user);
        }
        for declared in self.values.drain(..) {
            let name = declared.name;
            value::check_name(name)?;
            if declared.max_age.is_some_and(|age| age.as_millis() == 0) {
                return Err(BuildErrorKind::Value.error(format!(
                    "`{name}` has a `MAX_AGE` under a millisecond, so the value would expire at once: give `MAX_AGE` \
                     a longer time, or leave `MAX_AGE` out"
                )));
            }
            if schema.index_by_name(name).is_some() {
                return Err(BuildErrorKind::Value.error(format!(
                    "`{name}` is declared twice, or is the name of two types: declare each type once, and give each \
                     type a `NAME` of its own"
                )));
            }
            schema.push(declared);
        }
        if schema.len() > usize::from(u8::MAX) {
            let message = "the chain declares more than 255 values: put values that belong together into one type";
            return Err(BuildErrorKind::Value.error(message));
        }
        Ok(schema)
    }

    pub(super) fn identity(&mut self, schema: &Schema) -> Result<Identity, BuildError> {
        match (self.identify.take(), self.identify_by.take()) {
            (Some(_), Some(_)) => Err(BuildErrorKind::Setting
                .error("`identify` and `identify_by` would both name the signed-in user: leave one of the two out")),
            (Some(head), None) => Ok(Identity::Head(head)),
            (None, Some((user, derive))) => {
                if user.scope != Scope::Session {
                    let name = user.name;
                    let message = format!("`{name}` names the signed-in user, so its scope must be `Scope::Session`");
                    return Err(BuildErrorKind::Value.error(message));
                }
                let index = schema.index_of_type(user.type_id).expect("the schema has the type of `identify_by`");
                Ok(Identity::Value { index, derive })
            }
            (None, None) => Ok(Identity::Nobody),
        }
    }

    /// Returns the bytes kept for the identity value; 0 if browsers do not carry the value.
    pub(super) fn kept_room(&self, schema: &Schema, identity: &Identity, budget: Budget) -> Result<usize, BuildError> {
        let room = match identity {
            Identity::Value { index, .. } if schema.get(*index).in_cookie() => self.identity_room,
            _ => 0,
        };
        if room > budget.session {
            let message = format!(
                "`identity_room` reserves {room} bytes for the identity value, and the session's part of the cookie \
                 has {}: lower `identity_room`",
                budget.session
            );
            return Err(BuildErrorKind::Setting.error(message));
        }
        Ok(room)
    }
}

/// Refuses a value that the chain could silently lose.
pub(super) fn check_placement(schema: &Schema, memory: bool, store: bool) -> Result<(), BuildError> {
    for (_, declared) in schema.iter() {
        let name = declared.name;
        match declared.placement {
            Placement::Server if !store => {
                return Err(BuildErrorKind::Value.error(format!(
                    "`{name}` has `Placement::Server`, and would be lost at a restart: add a shared store, or let the \
                     browser carry the value (`Placement::Everywhere`), or accept the loss (`Placement::Volatile`)"
                )));
            }
            Placement::Volatile if !memory && !store => {
                return Err(BuildErrorKind::Value.error(format!(
                    "`{name}` has `Placement::Volatile`, and no tier would keep the value: add \
                     `.tier(MemoryTier::builder().build())`"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses the restoration of sessions that name a user.
pub(super) fn check_restore(store: Option<&SharedTier>, identity: &Identity) -> Result<(), BuildError> {
    if store.is_some_and(SharedTier::restores) && matches!(identity, Identity::Value { .. }) {
        return Err(BuildErrorKind::Chain.error(
            "`restore_from_cookie` would bring back a session whose sign-out the store has lost, and `identify_by` \
             would sign the user in again: leave one of the two out",
        ));
    }
    Ok(())
}

#[cfg(feature = "tokio")]
#[allow(clippy::unnecessary_wraps)] // The variant without the feature `tokio` fails.
pub(super) fn default_clock() -> Result<Arc<dyn Clock>, BuildError> {
    Ok(Arc::new(crate::time::TokioClock))
}

#[cfg(not(feature = "tokio"))]
pub(super) fn default_clock() -> Result<Arc<dyn Clock>, BuildError> {
    Err(BuildErrorKind::Setting
        .error("the chain has no clock: set a clock with `.clock(..)`, or enable the feature `tokio`"))
}
