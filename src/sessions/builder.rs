//! [`SessionsBuilder`]: the settings, and the order of their checks.

use std::{fmt, sync::Arc, time::Duration};

use http::request::Parts;

use super::{Resolved, Sessions};
use crate::{
    config::{ComputedTier, Config, Derive, Identify, Identity, Reads},
    cookie::{SameSite, fingerprint::FingerprintKey, header::Name},
    cross_site::{CrossSiteRule, origin::PublicOrigins},
    error::{BuildError, BuildErrorKind},
    id::Principal,
    node::Node,
    node_clock::NodeClock,
    record::{life::Lifetime, values::Resolution, write::Budget},
    time::Clock,
    value::{self, Scope, SessionValue, ValueSpec},
};

mod check;
mod tiers;

pub use self::tiers::IntoTier;
use self::{
    check::{check_placement, check_restore, default_clock},
    tiers::{AddedTier, Tiers},
};

const DAY: Duration = Duration::from_secs(86_400);

/// The bytes for an identity value with an id, a name and a role.
const IDENTITY_ROOM: usize = 256;

/// Settings of [`Sessions`]. [`build`](Self::build) finds every misconfiguration.
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
///     "no cookie tier carries the session's id: add `.tier(CookieTier::sealed(..))`"
/// );
/// # Ok::<_, layered_session::BuildError>(())
/// ```
#[must_use = "`build` checks the settings and makes the sessions"]
pub struct SessionsBuilder {
    tiers: Vec<AddedTier>,
    values: Vec<ValueSpec>,
    resolved: Vec<Resolved>,
    identify: Option<Box<Identify>>,
    identify_by: Option<(ValueSpec, Box<Derive>)>,
    lifetime: Lifetime,
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
            lifetime: Lifetime { idle: 2 * DAY, absolute: 30 * DAY, ends_with_browser: false },
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
    /// Adds a tier below the tiers added before: [`MemoryTier`](crate::MemoryTier) first, then
    /// [`CookieTier`](crate::CookieTier), which each chain needs for the session's id, and then computed tiers. A
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

    /// Declares a value, and puts the `V` itself into the extensions of every request, for code that knows only the
    /// application's type. Each request then reads the value, with the cost of a read and `Vary: Cookie`. A chain with
    /// a source or store needs [`LayeredSessionLayer::preload`](crate::LayeredSessionLayer::preload) for this.
    pub fn resolve<V: SessionValue + Default + Clone>(mut self) -> Self {
        self.resolved.push(|session, extensions| drop(extensions.insert(session.value::<V>())));
        self.value::<V>()
    }

    /// Takes the principal from the request's head, where an outer layer has put the user. The closure runs at entry,
    /// on every request.
    ///
    /// **After each sign-in call [`Session::renew`](crate::Session::renew), and after each sign-out
    /// [`destroy`](crate::Session::destroy).** A socket or stream keeps the user of its first request: the end of its
    /// session alone tells the socket that the browser has another user. (`identify_by` needs no such call.)
    pub fn identify(mut self, identify: impl Fn(&Parts) -> Option<Principal> + Send + Sync + 'static) -> Self {
        self.identify = Some(Box::new(identify));
        self
    }

    /// Takes the principal from a session-scope value, the identity value. Only `sign_in` and `sign_out` change that
    /// value. Declares the value, unless the value is declared already. The closure runs once for a request that asks
    /// for the principal, and again after a change of the value.
    pub fn identify_by<V: SessionValue>(
        mut self,
        identify: impl Fn(&V) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        let derive = move |json: &[u8]| value::decode::<V>(json).ok().and_then(|user| identify(&user));
        self.identify_by = Some((ValueSpec::of::<V>(), Box::new(derive)));
        self
    }

    /// Keeps bytes of the session's part of the cookie for the identity value (`identify_by`), so that a full session
    /// can sign in. The default is 256 bytes. A value takes 12 bytes plus the bytes of its name and of its JSON.
    ///
    /// An ordinary write that would need a part of this room is refused (`TooLarge`). A sign-in is never too large,
    /// however full the session is, if the identity value and the values of [`SignIn::with`](crate::SignIn::with)
    /// together fit the room. A larger identity value may be refused. No room is kept without `identify_by`, or if
    /// browsers do not carry the identity value.
    pub const fn identity_room(mut self, bytes: usize) -> Self {
        self.identity_room = bytes;
        self
    }

    /// Sets the idle lifetime: a session ends after this time without a use. The default is two days (OWASP ASVS
    /// 7.3.1). The cookie's `Max-Age` is a minute shorter: see [`CookieTier`](crate::CookieTier).
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.lifetime.idle = idle;
        self
    }

    /// Sets the absolute lifetime: a session ends this long after its beginning, however much the session is used. The
    /// default is thirty days (OWASP ASVS 7.3.2).
    pub const fn absolute(mut self, absolute: Duration) -> Self {
        self.lifetime.absolute = absolute;
        self
    }

    /// Lets browsers drop the cookie when they close (no `Max-Age`), except for sessions with a lifetime of their own:
    /// [`Session::set_lifetime`](crate::Session::set_lifetime) with a [`Lifetime`] that outlives the browser is
    /// "remember me". The limits of `idle` and `absolute` hold as well. A session takes 72 bytes more in memory.
    pub const fn until_browser_closes(mut self) -> Self {
        self.lifetime.ends_with_browser = true;
        self
    }

    /// Sets the time for which memory keeps a principal's values after their last use. The default is 31 days. The
    /// tombstone of a removal stays for as long as any cookie could bring the value back.
    pub const fn principal_idle(mut self, idle: Duration) -> Self {
        self.principal_idle = idle;
        self
    }

    /// Sets how far ahead the clocks of other nodes may be. The default is one hour. A cookie sealed further ahead
    /// counts as absent, and a version further ahead counts as written when its token was sealed. The skew bounds all
    /// effects of a wrong clock: see [`Clock`](crate::Clock#wrong-clocks). The tokens by which a page brings a new
    /// session, a sign-in or a renewal live for a minute. For these tokens the clocks must agree within a minute,
    /// whatever the setting.
    pub const fn max_skew(mut self, skew: Duration) -> Self {
        self.max_skew = skew;
        self
    }

    /// Sets how long a load waits for each read-only source ([`Source`](crate::tier::Source)). The default is 250
    /// milliseconds. After the deadline the next tier answers, and the late source is traced and counted as
    /// [`Stats::source_failures`](crate::Stats::source_failures). The load drops the late source's future. A [source
    /// with a database](crate::guide::tiers#a-source-with-a-database) runs its query in a task of its own, so that a
    /// late answer still fills the cache for the next load.
    ///
    /// A load asks its sources one after the other. A handle keeps the answers of its load: in place of a late source
    /// the next tier answers for the handle's life, and [`update`](crate::Session::update) of a value without a stored
    /// copy begins from the next tier's answer.
    ///
    /// A source that is not ready at once arms the sleep of the [`Clock`]. Tokio's clock panics there on a runtime
    /// without timers, and outside of a runtime.
    pub const fn source_deadline(mut self, deadline: Duration) -> Self {
        self.source_deadline = deadline;
        self
    }

    /// Sets the audience, which keeps applications apart that share keys or a store: a token or a record of one
    /// audience is unknown to another audience.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the rule by which memory, the cookie or a shared store answers if several have a copy.
    pub const fn resolution(mut self, resolution: Resolution) -> Self {
        self.resolution = resolution;
        self
    }

    /// Sets another clock than the system's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Adds public origins such as `https://app.example`, under which browsers know the application, for proxies that
    /// rewrite `Host`. The cross-site rule of the writeback and of upgrades accepts these origins beside the request's
    /// own authority, whatever the value of `Sec-Fetch-Site`. The rule reads `Origin`: make sure that no proxy removes
    /// or blanks this field.
    ///
    /// A page of a listed origin on another site begins no session under `Lax` or `Strict`: the browser withholds the
    /// cookie from its requests, and the writeback answers 409. Serve such a page from the same site, or set
    /// [`SameSite::None`](crate::SameSite::None). A principal from [`identify`](Self::identify) is trusted there, and
    /// the principal's values are read and written.
    pub fn public_origins<I: IntoIterator<Item: Into<String>>>(mut self, origins: I) -> Self {
        self.public_origins.extend(origins.into_iter().map(Into::into));
        self
    }

    /// Gives an upgrade its session under [`SameSite::None`](crate::SameSite::None) even if the upgrade carries neither
    /// `Origin` nor `Sec-Fetch-Site`: for WebSocket clients that are no browsers. By default such an upgrade has no
    /// session under `None`. Under `Lax` and `Strict` such an upgrade has its session without this setting, since every
    /// browser sends `Origin` with a WebSocket (RFC 6455, 4.1).
    ///
    /// Under `None` a browser sends the cookie with the sockets of every site, and only `Origin` shows which site
    /// opened a socket. Make sure that no proxy removes `Origin`. If a proxy removes the field, a page of any site can
    /// open a socket with the user's session.
    pub const fn upgrades_without_origin(mut self) -> Self {
        self.upgrades_without_origin = true;
        self
    }

    /// Leaves `Cache-Control` of responses that read the session to the handlers.
    ///
    /// Without this setting a response whose request read the session gets `max-age=0, private, must-revalidate`,
    /// unless its handler set a caching field: `Cache-Control`, `Expires`, or a field for particular caches
    /// (`CDN-Cache-Control`, any field that ends in `-CDN-Cache-Control`, `Surrogate-Control`, `X-Accel-Expires`). With
    /// `Vary: Cookie` alone a shared cache may answer a request with the same cookie by a copy from before a write, or
    /// from before a sign-out elsewhere.
    ///
    /// The response has `Vary: Cookie` in both cases, and a response with a cookie of ours has `no-store`.
    pub const fn without_cache_control(mut self) -> Self {
        self.reads = Reads::Vary;
        self
    }

    /// Checks all settings, and builds the sessions.
    ///
    /// # Errors
    ///
    /// If the configuration can't work or would silently lose a value. The error names its remedy.
    pub fn build(mut self) -> Result<Sessions, BuildError> {
        let lifetime = self.lifetime;
        Lifetime::new(lifetime.idle, lifetime.absolute)?;
        let clock = self.clock.take().map_or_else(default_clock, Ok)?;
        let public = PublicOrigins::parse(&self.public_origins)?;
        let schema = self.schema()?;
        let Tiers { memory, cookie, store, computed } = self.sort_tiers(&schema)?;
        cookie.check()?;
        // Under `Lax` and `Strict` a browser sends no cookie with an upgrade across sites, so an upgrade without
        // `Origin` may have its session.
        let bare_upgrades = self.upgrades_without_origin || cookie.same_site != SameSite::None;
        if self.principal_idle < Duration::from_secs(1) {
            return Err(BuildErrorKind::Setting.error(
                "`principal_idle` is under a second, so a user's values would be gone at the next request: extend \
                 `principal_idle`",
            ));
        }
        if self.source_deadline < Duration::from_millis(1) {
            return Err(BuildErrorKind::Setting.error(
                "`source_deadline` is under a millisecond, so no source that waits could answer: extend \
                 `source_deadline`",
            ));
        }
        if let Some(store) = &store {
            store.check()?;
        }
        if memory.as_ref().is_some_and(|tier| tier.max_bytes == 0) {
            return Err(BuildErrorKind::Setting.error(
                "a memory tier with a `max_bytes` of 0 can't keep anything: raise `max_bytes`, or leave the tier out",
            ));
        }
        let memory = memory.map(|tier| tier.open());
        let identity = self.identity(&schema)?;
        check_restore(store.as_ref(), &identity)?;
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
            cookie_name: Name::new(cookie.cookie_name()),
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
            cross_site: CrossSiteRule { public, bare_upgrades },
        };
        let node = Node::new(config, memory, store, NodeClock::new(clock, self.max_skew));
        Ok(Sessions { node: Arc::new(node), resolved: self.resolved.into() })
    }
}

impl fmt::Debug for SessionsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.values.iter().map(|declared| declared.name).collect();
        f.debug_struct("SessionsBuilder").field("values", &names).finish_non_exhaustive()
    }
}
