//! Following a session beyond the response: watches, streams of changes, and the end of a session.

use std::future::{Future, poll_fn};

pub(crate) use self::wait::{Next, Wait, close_reason, next_end};
pub use self::{
    changes::{ChangeEvent, Changes},
    watch::Watch,
};
use crate::{
    error::CloseReason,
    session::{Session, read},
    value::SessionValue,
};

pub(crate) mod changes;
mod wait;
mod watch;

impl Session {
    /// Follows a value: the present value first, and then each newer value, from every writer. Without a session the
    /// present value is the answer of the computed tiers, and newer values follow once this handle has begun a session.
    /// In a chain without memory the stream shows this handle's own writes only.
    pub fn watch<V: SessionValue + Default>(&self) -> Watch<V> {
        Watch::new(self.clone())
    }

    /// Follows all changes to the values of the session and of its principal, from now on.
    pub fn changes(&self) -> Changes {
        Changes::new(self.clone())
    }

    /// Resolves when the session is over, with the reason. Resolves at once if the session is over already, or if the
    /// request has no session and may begin none ([`CloseReason::CrossSite`], [`CloseReason::Ambiguous`]). The future
    /// keeps a handle of its own, so a stream or a task can hold the future.
    ///
    /// A `select!` doesn't poll the future while the handler of another arm runs. During a send that never ends, the
    /// socket of a user who has signed out stays open, so give each send a timeout.
    ///
    /// # Cancel safety
    ///
    /// A dropped `closed()` leaves nothing behind, and the next call resolves with the same reason.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + Sync + use<> {
        read::mark_watched(self.shared());
        let mut wait = Wait::new(self.clone());
        poll_fn(move |cx| {
            wait.poll(cx, |session, ended| {
                let now = session.shared().node.now();
                let reason = ended.or_else(|| close_reason(session));
                reason.map_or_else(|| Next::Idle(next_end(session, [], now)), Next::Item)
            })
        })
    }
}
