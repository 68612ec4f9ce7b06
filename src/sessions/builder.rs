//! [`SessionsBuilder`]: every setting, and every check of them.

use std::{fmt, sync::Arc, time::Duration};

use http::request::Parts;

use super::{Resolved, Sessions};
use crate::{
    config::{ComputedTier, Config, Derive, Identify, Identity, Reads},
    cookie::{SameSite, fingerprint::FingerprintKey},
    cross_site::{CrossSiteRule, origin::PublicOrigins},
    error::{BuildError, BuildErrorKind},
    id::Principal,
    node::Node,
    node_clock::NodeClock,
    record::{budget::Budget, life::Lifetime, values::Resolution},
    time::Clock,
    value::{self, Scope, SessionValue, ValueSpec},
};

mod check;
mod tiers;

pub use self::tiers::IntoTier;
use self::{
    check::{check_placement, default_clock},
    tiers::{AddedTier, Tiers},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Enough for an id, a name and a role.
const IDENTITY_ROOM: usize = 256;

/// Settings of [`Sessions`]. Every misconfiguration is found at [`build`](Self::build).
///
/// ```
/// # use layered_session::{CookieTier, DefaultTier, KeyRing, MemoryTier, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # let keys = KeyRing::generate()?;
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(keys))
///     .tier(DefaultTier::new().value(Theme("light".into())))
///     .value::<Theme>()
///     .idle(Duration::from_secs(3_600))
///     .build()?;
///
/// let without_cookie = Sessions::builder().tier(MemoryTier::builder().build());
/// let refused = without_cookie.build().unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "nothing carries the session's id: add `.tier(CookieTier::sealed(..))`"
/// );
/// # Ok::<_, layered_session::BuildError>(())
/// ```
#[must_use = "nothing is checked before `build`"]
pub struct SessionsBuilder {
    tiers: Vec<AddedTier>,
    values: Vec<ValueSpec>,
    resolved: Vec<Resolved>,
    identify: Option<Box<Identify>>,
    identify_by: Option<(ValueSpec, Box<Derive>)>,
    idle: Duration,
    absolute: Duration,
    ends_with_browser: bool,
    identity_room: usize,
    principal_idle: Duration,
    max_skew: Duration,
    source_deadline: Duration,
    audience: String,
    resolution: Resolution,
    clock: Option<Arc<dyn Clock>>,
    public_origins: Vec<String>,
    upgrades_without_origin: bool,
    reads: Reads,
}

impl Default for SessionsBuilder {
    fn default() -> Self {
        Self {
            tiers: Vec::new(),
            values: Vec::new(),
            resolved: Vec::new(),
            identify: None,
            identify_by: None,
            idle: 2 * DAY,
            absolute: 30 * DAY,
            ends_with_browser: false,
            identity_room: IDENTITY_ROOM,
            principal_idle: 31 * DAY,
            max_skew: Duration::from_secs(3600),
            source_deadline: Duration::from_millis(250),
            audience: String::new(),
            resolution: Resolution::default(),
            clock: None,
            public_origins: Vec::new(),
            upgrades_without_origin: false,
            reads: Reads::Private,
        }
    }
}

impl SessionsBuilder {
    /// Adds a tier below those added before: [`MemoryTier`](crate::MemoryTier) first, then
    /// [`CookieTier`](crate::CookieTier) (needed: it carries the session's id), then what computes its answers. A
    /// [`SharedTier`](crate::SharedTier) may stand anywhere.
    pub fn tier(mut self, tier: impl IntoTier) -> Self {
        self.tiers.push(tier.into_tier());
        self
    }

    /// Declares a value.
    pub fn value<V: SessionValue>(mut self) -> Self {
        self.values.push(ValueSpec::of::<V>());
        self
    }

    /// Declares a value, and puts it into the extensions of every request as itself, for code that knows only the
    /// application's type. That is a read on every request, with its cost and its `Vary: Cookie`. Where a source or
    /// store may have to be waited for, it takes [`LayeredSessionLayer::preload`](crate::LayeredSessionLayer::preload).
    pub fn resolve<V: SessionValue + Default + Clone>(mut self) -> Self {
        self.resolved.push(|session, extensions| drop(extensions.insert(session.value::<V>())));
        self.value::<V>()
    }

    /// The principal is what the request's head says, where an outer layer has put the user. Runs at entry, on every
    /// request.
    ///
    /// **Whoever signs somebody in or out calls [`Session::renew`](crate::Session::renew) or
    /// [`destroy`](crate::Session::destroy) then.** A socket or stream follows the user of the request that opened it:
    /// only the end of its session tells it that the browser is somebody else's by now. (`identify_by` does this by
    /// itself.)
    pub fn identify(mut self, identify: impl Fn(&Parts) -> Option<Principal> + Send + Sync + 'static) -> Self {
        self.identify = Some(Box::new(identify));
        self
    }

    /// The principal is what a session-scope value says; only `sign_in` and `sign_out` change that value. Declares it
    /// too, unless that is done already. The closure runs once per request that asks.
    pub fn identify_by<V: SessionValue>(
        mut self,
        identify: impl Fn(&V) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        let derive = move |json: &[u8]| value::decode::<V>(json).ok().and_then(|user| identify(&user));
        self.identify_by = Some((ValueSpec::of::<V>(), Box::new(derive)));
        self
    }

    /// The bytes of the session's part of the cookie that are kept for the value which `identify_by` names, so that a full
    /// session can sign in: 256 if not said. The bytes are those of the JSON, of the value's name, and 12 more.
    ///
    /// Ordinary writes are refused (`TooLarge`) where they would eat into the room. A sign-in whose user value and granted
    /// values together take no more than the room always fits, whatever ordinary writes have put into the session. A larger
    /// user value may be refused. Without `identify_by` nothing is kept, nor where browsers do not carry the user value.
    pub const fn identity_room(mut self, bytes: usize) -> Self {
        self.identity_room = bytes;
        self
    }

    /// A session ends unused for so long. Two days if not said (OWASP ASVS 7.3.1). The cookie's `Max-Age` is a minute short of
    /// it: see [`CookieTier`](crate::CookieTier).
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// A session ends so long after it began, however much it is used. Thirty days if not said (OWASP ASVS 7.3.2).
    pub const fn absolute(mut self, absolute: Duration) -> Self {
        self.absolute = absolute;
        self
    }

    /// Every cookie goes when its browser closes (no `Max-Age`), but for sessions with a lifetime of their own:
    /// [`Session::set_lifetime`](crate::Session::set_lifetime) with a [`Lifetime`] that outlives the browser is "remember
    /// me". The limits of `idle` and `absolute` hold as well. A session takes 72 bytes more in memory.
    pub const fn until_browser_closes(mut self) -> Self {
        self.ends_with_browser = true;
        self
    }

    /// A principal's own values are kept in memory so long from their last use: 31 days if not said. A removal is kept for as
    /// long as any cookie could bring the value back.
    pub const fn principal_idle(mut self, idle: Duration) -> Self {
        self.principal_idle = idle;
        self
    }

    /// How far ahead the clocks of other nodes may be: one hour if not said. A cookie from further ahead counts as
    /// absent, and a version from further ahead as written when its token was sealed. It bounds all that a wrong clock does:
    /// see [`Clock`](crate::Clock#wrong-clocks). A page's token of a minute, for a birth or a turn, needs clocks within a
    /// minute, whatever this says.
    pub const fn max_skew(mut self, skew: Duration) -> Self {
        self.max_skew = skew;
        self
    }

    /// How long a load waits for each read-only source ([`Source`](crate::tier::Source)): 250 milliseconds unless
    /// told otherwise. After the deadline the next tier answers, and the late source is traced and counted as
    /// [`Stats::source_failures`](crate::Stats::source_failures). The late source's future is dropped: a
    /// [source with a database](crate::guide::tiers#a-source-with-a-database) runs its query in a task of its own, so that a
    /// late answer still fills the cache for the next load.
    ///
    /// A load asks its sources one after the other. A handle keeps the answers of its load: a value that a late source would
    /// have answered stays the next tier's for the handle's life, and [`update`](crate::Session::update) of a value that no
    /// stored tier has begins from the next tier's answer.
    ///
    /// A source that is not ready at once arms the sleep of the [`Clock`]. Tokio's clock panics there on a runtime without
    /// timers, and outside of a runtime.
    pub const fn source_deadline(mut self, deadline: Duration) -> Self {
        self.source_deadline = deadline;
        self
    }

    /// Keeps applications apart that share keys or a store: what is sealed or stored for one audience is nothing to
    /// another.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Which stored tier answers when several could.
    pub const fn resolution(mut self, resolution: Resolution) -> Self {
        self.resolution = resolution;
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Origins such as `https://app.example` under which browsers know the application, for proxies that rewrite
    /// `Host`. The cross-site rule of the writeback and of upgrades accepts them beside the request's own authority,
    /// whatever `Sec-Fetch-Site` says. No proxy may remove or blank `Origin`, which the rule reads.
    ///
    /// A listed origin of another site still begins no session under `Lax` or `Strict`: the browser withholds the cookie
    /// from its requests, and the writeback answers 409. Serve such a page from the same site, or set
    /// [`SameSite::None`](crate::SameSite::None). The principal that [`identify`](Self::identify) gives is believed there,
    /// and its values are read and written.
    pub fn public_origins<I: IntoIterator<Item: Into<String>>>(mut self, origins: I) -> Self {
        self.public_origins.extend(origins.into_iter().map(Into::into));
        self
    }

    /// Lets an upgrade that carries neither `Origin` nor `Sec-Fetch-Site` have its session under
    /// [`SameSite::None`](crate::SameSite::None) too: for WebSocket clients that are no browsers. Under `Lax` and `Strict`
    /// such an upgrade always has its session, since every browser sends `Origin` with a WebSocket (RFC 6455, 4.1).
    ///
    /// Under `None` a browser sends the cookie with the sockets of every site, and `Origin` alone tells the sites apart. So
    /// no proxy in front may remove or blank `Origin`: a page of any site could then open the user's socket.
    pub const fn upgrades_without_origin(mut self) -> Self {
        self.upgrades_without_origin = true;
        self
    }

    /// Leaves `Cache-Control` of responses that read the session to the handlers.
    ///
    /// Otherwise a response whose request read the session says `max-age=0, private, must-revalidate` where its handler
    /// said nothing of caching: no `Cache-Control`, no `Expires`, and no field of a single cache (`CDN-Cache-Control`, any
    /// field that ends in `-CDN-Cache-Control`, `Surrogate-Control`, `X-Accel-Expires`). `Vary: Cookie`
    /// alone lets a shared cache answer a request that brings the same cookie with a copy of before a write, or of before
    /// a sign-out elsewhere.
    ///
    /// `Vary: Cookie` is said all the same, and a response with a cookie of ours is never stored.
    pub const fn without_cache_control(mut self) -> Self {
        self.reads = Reads::Vary;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    ///
    /// What can't work, or would silently lose a value, with its remedy.
    pub fn build(mut self) -> Result<Sessions, BuildError> {
        let lifetime = Lifetime::new(self.idle, self.absolute)?;
        let lifetime = if self.ends_with_browser { lifetime.until_browser_closes() } else { lifetime };
        let clock = self.clock.take().map_or_else(default_clock, Ok)?;
        let public = PublicOrigins::parse(&self.public_origins)?;
        let schema = self.schema()?;
        let Tiers { memory, cookie, store, computed } = self.sort_tiers(&schema)?;
        cookie.check()?;
        // Under `Lax` and `Strict` a browser that sent no `Origin` would send no cookie across sites either.
        let bare_upgrades = self.upgrades_without_origin || cookie.sent() != SameSite::None;
        if self.principal_idle < Duration::from_secs(1) {
            return Err(BuildErrorKind::Setting.error(
                "`principal_idle` is under a second, so a user's values would be gone at the next request: extend it",
            ));
        }
        if self.source_deadline < Duration::from_millis(1) {
            return Err(BuildErrorKind::Setting
                .error("`source_deadline` under a millisecond: no source that waits could answer"));
        }
        if memory.as_ref().is_some_and(|tier| tier.max_bytes == 0) {
            return Err(BuildErrorKind::Setting
                .error("a memory tier of 0 bytes holds nothing: give more, or leave the tier out"));
        }
        let memory = memory.map(|tier| tier.open());
        let identity = self.identity(&schema)?;
        check_placement(&schema, memory.is_some(), store.is_some())?;
        let principals = schema.iter().any(|(_, declared)| declared.in_cookie() && declared.scope == Scope::Principal);
        let principals = principals && !matches!(identity, Identity::Nobody);
        let (budget, max_budget) = (cookie.budget(principals), cookie.max_budget(principals));
        let budget = Budget { identity: self.kept_room(&schema, &identity, budget)?, ..budget };
        let config = Config {
            names: schema.iter().map(|(_, declared)| declared.name).collect(),
            schema,
            budget,
            max_budget,
            cookie_name: cookie.header_name(),
            fingerprints: FingerprintKey::generate()?,
            cookie,
            has_sources: computed.iter().any(ComputedTier::is_source),
            asks_head: matches!(identity, Identity::Head(_)) || computed.iter().any(ComputedTier::asks_head),
            computed,
            resolution: self.resolution,
            lifetime,
            principal_idle: self.principal_idle,
            audience: self.audience.into(),
            identity,
            reads: self.reads,
        };
        let node = Node::new(config, memory, store, NodeClock::new(clock, self.max_skew));
        let cross_site = Arc::new(CrossSiteRule { public, bare_upgrades });
        Ok(Sessions { node: Arc::new(node), resolved: self.resolved.into(), cross_site })
    }
}

impl fmt::Debug for SessionsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.values.iter().map(|declared| declared.name).collect();
        f.debug_struct("SessionsBuilder").field("values", &names).finish_non_exhaustive()
    }
}
