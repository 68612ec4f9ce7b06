//! [`SessionValue`]: the typed values of a session, each declared once, and stored as JSON bytes.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{
    flaw::ValueError,
    json::{Json, decode, encode},
    schema::{MAX_NAME, Schema, ValueIndex, ValueSpec, check_name},
};
use crate::error::BoxError;

mod flaw;
mod json;
mod schema;

/// A value that sessions can hold: its wire name, its scope, its placement, its lifetime, and its validation.
///
/// ```
/// use layered_session::{Scope, SessionValue, tier::BoxError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Division(i64);
///
/// impl SessionValue for Division {
///     const NAME: &'static str = "current_division_id";
///     const SCOPE: Scope = Scope::Principal;
///
///     fn validate(&self) -> Result<(), BoxError> {
///         if (-1..=5).contains(&self.0) { Ok(()) } else { Err("no such division".into()) }
///     }
/// }
///
/// assert!(Division(9).validate().is_err());
/// ```
///
/// # Shapes that survive
///
/// Cookies and stores hold a value as JSON, for longer than the build that wrote the value runs. A write is refused if
/// the JSON does not decode again. Some values change on the way through JSON, which the check does not see:
///
/// | shape | reads back as |
/// |---|---|
/// | `Some(f64::NAN)`, `Some(f64::INFINITY)` | `None`: JSON has no such numbers, and serde writes `null`. A bare `NAN` is refused |
/// | `Some(None)` | `None` |
/// | an untagged enum | the first variant that fits |
/// | a map with keys that are neither strings nor integers | nothing: the write is refused |
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, Sessions, SessionValue};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(untagged)]
/// enum Amount {
///     Rough(f64),
///     Exact(i64),
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Gaps(Option<f64>, Option<Option<u8>>, Amount);
/// # impl SessionValue for Gaps { const NAME: &'static str = "gaps"; }
///
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build()).tier(CookieTier::sealed(KeyRing::generate()?));
/// # let layer = LayeredSessionLayer::new(chain.value::<Gaps>().build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// session.set(Gaps(Some(f64::NAN), Some(None), Amount::Exact(1))).await?;
/// assert_eq!(session.get(), Some(Gaps(None, None, Amount::Rough(1.0))));
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # futures_util::FutureExt::now_or_never(service.oneshot(Request::new(()))).ok_or("it waits for nothing")??;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
///
/// Between builds a value may change:
///
/// - *The type's name* may change freely: [`NAME`](Self::NAME) does not depend on the type's name.
/// - *A new `NAME`* makes another value. The record keeps the copy under the old name unread until the record ends;
///   declare a type with the old name to read the copy.
/// - *A new field* needs `#[serde(default)]`. Without it, no copy of an older build decodes: reads skip the copy, and
///   [`update`](crate::Session::update) begins with the type's default, so that its write replaces the older copy for
///   good.
/// - *A renamed field* takes `#[serde(alias = "…")]`.
/// - *Another shape* takes `#[serde(from = "…")]` with an untagged enum of all shapes, the newest first.
/// - *A map or a list* needs a type of the application's own. A newtype (`struct Cart(BTreeMap<String, u32>)`) is the
///   bare map in JSON; a struct with the map as a field can have more fields later.
///
/// ```
/// use std::collections::BTreeMap;
/// # use layered_session::SessionValue;
/// # use serde::{Deserialize, Serialize};
///
/// /// Earlier builds wrote `{"items": ["tea", "tea"]}`.
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// #[serde(from = "Stored")]
/// struct Cart {
///     lines: BTreeMap<String, u32>,
/// }
///
/// #[derive(Deserialize)]
/// #[serde(untagged)]
/// enum Stored {
///     Counted { lines: BTreeMap<String, u32> },
///     Listed { items: Vec<String> },
/// }
///
/// impl From<Stored> for Cart {
///     fn from(stored: Stored) -> Self {
///         match stored {
///             Stored::Counted { lines } => Self { lines },
///             Stored::Listed { items } => {
///                 let mut lines = BTreeMap::new();
///                 items.into_iter().for_each(|item| *lines.entry(item).or_default() += 1);
///                 Self { lines }
///             }
///         }
///     }
/// }
/// # impl SessionValue for Cart { const NAME: &'static str = "cart"; }
///
/// let cart = Cart { lines: BTreeMap::from([("tea".to_owned(), 2)]) };
/// assert_eq!(serde_json::from_str::<Cart>(r#"{"items": ["tea", "tea"]}"#)?, cart);
/// assert_eq!(serde_json::from_str::<Cart>(r#"{"lines": {"tea": 2}}"#)?, cart);
/// # Ok::<_, serde_json::Error>(())
/// ```
///
/// While two builds run at once, the older build skips a copy whose shape is unknown to that build. The record keeps
/// the copy for the newer build, until the older build writes the value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a session value",
    label = "sessions hold types that implement `SessionValue`",
    note = "give the value a type of its own and a name: `#[derive(Serialize, Deserialize)] struct Theme(String);` and \
            `impl SessionValue for Theme {{ const NAME: &'static str = \"theme\"; }}`"
)]
pub trait SessionValue: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name on the wire: `[A-Za-z][A-Za-z0-9_.-]{0,63}`, checked at `build()`. Cookies and stores hold the name, so
    /// keep the name when the Rust type is renamed.
    const NAME: &'static str;

    /// The kind of the value's owner.
    const SCOPE: Scope = Scope::Session;

    /// The places where copies of the value may live.
    const PLACEMENT: Placement = Placement::Everywhere;

    /// The value's own lifetime, counted from the value's last write, if the value shall end before the owner's record.
    const MAX_AGE: Option<Duration> = None;

    /// Checks the value on every write (`set`, a browser's write) and on every read. A read skips a copy that does not
    /// pass, and the next tier answers.
    ///
    /// # Errors
    ///
    /// An error that gives the reason. The error's text reaches the writer, and the hook in the browser too.
    fn validate(&self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The kind of a value's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// The session owns the value, and the value ends with the session.
    Session,
    /// The signed-in user owns the value, in all browsers. While no user is signed in, the session owns the value.
    Principal,
}

/// The places where copies of a value may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// On servers, and in the browser's sealed cookie. With the copy in the cookie, the value survives a restart
    /// without a shared store.
    Everywhere,
    /// On servers only. Needs a shared store.
    Server,
    /// On servers only, for a value that may get lost: in memory, and in the shared store of a chain with a store.
    Volatile,
}
