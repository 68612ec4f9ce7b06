//! [`Watch`]: a stream of one value.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::wait::{Next, Wait};
use crate::{
    session::{Session, ValueRevision, read},
    value::{self, Json, SessionValue, ValueIndex},
};

/// A stream of a value: the current value first, then each newer value, from every writer.
///
/// The latest value wins: a slow reader skips the values between, and costs a writer nothing. The stream ends with the
/// session, and checks the end first, so that no value goes out after a logout. Values that are skipped as invalid
/// count as absent. A dropped stream leaves nothing behind.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// let mut themes = session.watch::<Theme>();
/// assert_eq!(themes.next().await, Some(Theme::default())); // the present one first
///
/// session.set(Theme("light".into())).await?;
/// session.set(Theme("dark".into())).await?;
/// assert_eq!(themes.next().await, Some(Theme("dark".into()))); // the newest
///
/// session.destroy().await?;
/// assert_eq!(themes.next().await, None);
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
pub struct Watch<V> {
    wait: Wait,
    index: Option<ValueIndex>,
    /// The last yielded copy, with its bytes: of two writes of the same version by two nodes, the write with the
    /// greater bytes wins.
    seen: Option<(ValueRevision, Option<Json>)>,
    value: PhantomData<fn() -> V>,
}

impl<V: SessionValue + Default> Watch<V> {
    pub(crate) fn new(session: Session) -> Self {
        read::mark_watched(session.shared());
        let index = read::declared_index::<V>(session.shared());
        Self { wait: Wait::new(session), index, seen: None, value: PhantomData }
    }

    /// Returns the next value; `None` when the session is over.
    ///
    /// # Cancel safety
    ///
    /// A dropped `next` has taken no value: the next call returns the newest value that no call has returned.
    pub async fn next(&mut self) -> Option<V> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<V: SessionValue + Default> Stream for Watch<V> {
    type Item = V;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<V>> {
        let Self { wait, index, seen, .. } = self.get_mut();
        wait.poll(cx, |session, ended| {
            let shared = session.shared();
            if ended.is_some() || shared.node.is_stopping() {
                return Next::Item(None);
            }
            let now = shared.node.now();
            let Ok(look) = read::peek(shared, *index, now) else {
                return Next::Item(None);
            };
            let now_seen = Some((look.revision(), look.json().cloned()));
            if now_seen == *seen {
                return Next::Idle(look.ends);
            }
            *seen = now_seen;
            let decode = |json: &[u8]| value::decode::<V>(json);
            let answer = index.and_then(|index| read::answer(shared, index, &look, now, decode));
            Next::Last(Some(answer.map_or_else(V::default, |(value, _)| value)), look.ends)
        })
    }
}

impl<V> fmt::Debug for Watch<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("value", &std::any::type_name::<V>()).finish_non_exhaustive()
    }
}
