//! What goes on after the response: watches, streams of changes, and the end of a session.

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
    /// The value now, and then each newer one, whoever writes it. Without a session the stream waits for one to be
    /// made on this handle. In a chain without memory nothing but this handle's own writes is seen.
    pub fn watch<V: SessionValue + Default>(&self) -> Watch<V> {
        Watch::new(self.clone())
    }

    /// Everything that happens from now on to the values of the session and of its principal.
    pub fn changes(&self) -> Changes {
        Changes::new(self.clone())
    }

    /// Resolves when the session is over, with the reason; at once if it is already, and where there is no
    /// session and none may begin ([`CloseReason::CrossSite`], [`CloseReason::Ambiguous`]). It keeps a handle of its own, so it can go
    /// into a stream or a task.
    ///
    /// In a `select!` it isn't polled while another arm's handler runs: a send that never ends would keep the socket
    /// of somebody who logged out, so sends want a timeout.
    ///
    /// # Cancel safety
    ///
    /// A dropped `closed()` leaves nothing behind, and the next one resolves with the same reason.
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
