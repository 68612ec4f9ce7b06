//! The errors of `build()`, and the attributes of the configured cookie.

use std::time::Duration;

use layered_session::{
    BuildError, BuildErrorKind, CookieTier, DefaultTier, KeyRing, MemoryTier, Placement, Principal, SameSite, Scope,
    SessionValue, Sessions, SessionsBuilder, SharedTier,
    testing::{ManualClock, SpyStore},
    tier::{Committed, Snapshot},
};
use serde::{Deserialize, Serialize};

use crate::support::{Browser, DAY, Division, Node, Theme, User, dark, empty_source, ring, store};

fn memory() -> MemoryTier {
    MemoryTier::builder().build()
}

fn cookie() -> CookieTier {
    CookieTier::sealed(ring())
}

/// A chain that builds.
fn chain() -> SessionsBuilder {
    Sessions::builder().tier(memory()).tier(cookie()).clock(ManualClock::new())
}

#[track_caller]
fn refused(builder: SessionsBuilder, kind: BuildErrorKind, remedy: &str) {
    refusal(builder.build().map(drop), kind, remedy);
}

#[track_caller]
fn refusal<T>(built: Result<T, BuildError>, kind: BuildErrorKind, remedy: &str) {
    let error = built.err().expect("the configuration is invalid");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(remedy), "no remedy: {error}");
}

/// Declares a value of this name. A macro, since the name is a constant.
macro_rules! value {
    ($type:ident, $name:expr $(, $setting:ident: $of:ty = $to:expr)*) => {
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        struct $type(String);

        impl SessionValue for $type {
            const NAME: &'static str = $name;
            $(const $setting: $of = $to;)*
        }
    };
}

value!(Proto, "__proto__");
value!(Constructor, "constructor");
value!(OtherTheme, "theme");
value!(Server, "server", PLACEMENT: Placement = Placement::Server);
value!(Volatile, "volatile", PLACEMENT: Placement = Placement::Volatile);
value!(Account, "account", SCOPE: Scope = Scope::Principal);
value!(Flash, "flash", MAX_AGE: Option<Duration> = Some(Duration::ZERO));

#[test]
fn chain_needs_one_cookie_after_memory() {
    use BuildErrorKind::Chain;
    chain().build().unwrap();
    Sessions::builder().tier(cookie()).build().unwrap();
    refused(Sessions::builder().tier(memory()), Chain, "add `.tier(CookieTier::sealed(..))`");
    refused(chain().tier(memory()), Chain, "leave the second out");
    refused(chain().tier(cookie()), Chain, "leave the second out");
    refused(Sessions::builder().tier(cookie()).tier(memory()), Chain, "add the memory tier before the cookie tier");
}

#[test]
fn duplicate_tiers_are_refused() {
    use BuildErrorKind::Chain;
    chain().tier(SharedTier::new(SpyStore::new())).tier(empty_source("a")).tier(empty_source("b")).build().unwrap();
    refused(chain().tier(DefaultTier::new()).tier(DefaultTier::new()), Chain, "put all defaults into one");
    let stores = chain().tier(SharedTier::new(SpyStore::new())).tier(store(
        "other",
        |_| Snapshot::Absent,
        |_| Committed::Absent,
    ));
    refused(
        stores,
        Chain,
        "`spy` and `other` are both shared stores: a chain has one shared store at most, so leave the other out",
    );
    refused(chain().tier(empty_source("a")).tier(empty_source("a")), Chain, "two tiers are named `a`");
    for taken in ["memory", "cookie", "default"] {
        refused(chain().tier(empty_source(taken)), Chain, &format!("two tiers are named `{taken}`"));
    }
}

#[test]
fn value_names_are_unique_and_valid() {
    use BuildErrorKind::Value;
    refused(chain().value::<Proto>(), Value, "use a letter and then up to 63 letters");
    refused(chain().value::<Constructor>(), Value, "neither `constructor` nor `prototype`");
    refused(chain().value::<Theme>().value::<Theme>(), Value, "`theme` is declared twice");
    refused(chain().value::<Theme>().value::<OtherTheme>(), Value, "give each type a `NAME` of its own");
    refused(chain().value::<Theme>().resolve::<Theme>(), Value, "`theme` is declared twice");
}

/// One of many values.
#[derive(Serialize, Deserialize)]
struct Cell<const ROW: u8, const COLUMN: u8>;

impl<const ROW: u8, const COLUMN: u8> Cell<ROW, COLUMN> {
    const BYTES: [u8; 3] = [b'v', b'a' + ROW, b'a' + COLUMN];
}

impl<const ROW: u8, const COLUMN: u8> SessionValue for Cell<ROW, COLUMN> {
    const NAME: &'static str = match str::from_utf8(&Self::BYTES) {
        Ok(name) => name,
        Err(_) => panic!("letters are UTF-8"),
    };
}

fn row<const ROW: u8>(chain: SessionsBuilder) -> SessionsBuilder {
    let chain = chain.value::<Cell<ROW, 0>>().value::<Cell<ROW, 1>>().value::<Cell<ROW, 2>>().value::<Cell<ROW, 3>>();
    let chain = chain.value::<Cell<ROW, 4>>().value::<Cell<ROW, 5>>().value::<Cell<ROW, 6>>().value::<Cell<ROW, 7>>();
    let chain = chain.value::<Cell<ROW, 8>>().value::<Cell<ROW, 9>>().value::<Cell<ROW, 10>>().value::<Cell<ROW, 11>>();
    let chain = chain.value::<Cell<ROW, 12>>().value::<Cell<ROW, 13>>().value::<Cell<ROW, 14>>();
    chain.value::<Cell<ROW, 15>>().value::<Cell<ROW, 16>>()
}

#[test]
fn chain_declares_at_most_255_values() {
    let rows = [row::<0>, row::<1>, row::<2>, row::<3>, row::<4>, row::<5>, row::<6>, row::<7>];
    let more = [row::<8>, row::<9>, row::<10>, row::<11>, row::<12>, row::<13>, row::<14>];
    let most = || rows.iter().chain(&more).fold(chain(), |chain, row| row(chain));
    most().build().unwrap();
    refused(most().value::<Theme>(), BuildErrorKind::Value, "put values that belong together into one type");
}

#[test]
fn value_placement_needs_matching_tier() {
    use BuildErrorKind::Value;
    refused(chain().value::<Server>(), Value, "add a shared store");
    refused(chain().value::<Server>(), Value, "`Placement::Everywhere`");
    refused(chain().value::<Server>(), Value, "`Placement::Volatile`");
    refused(
        Sessions::builder().tier(cookie()).value::<Volatile>(),
        Value,
        "add `.tier(MemoryTier::builder().build())`",
    );
    chain().value::<Volatile>().build().unwrap();
    chain().tier(SharedTier::new(SpyStore::new())).value::<Server>().build().unwrap();
}

#[test]
fn default_must_be_declared_and_valid() {
    use BuildErrorKind::Value;
    let default = |number| chain().tier(DefaultTier::new().value(Division(number)));
    refused(default(1), Value, "`current_division_id`, which is not declared: add `.value::<..>()`");
    refused(default(6).value::<Division>(), Value, "no such division");
    default(5).value::<Division>().build().unwrap();
}

#[test]
fn invalid_identity_rules_are_refused() {
    let principal = |user: &User| Some(Principal::new(&user.0));
    let both = chain().identify(|_| None).identify_by::<User>(principal);
    refused(both, BuildErrorKind::Setting, "leave one of the two out");
    let principals_own = chain().identify_by::<Account>(|account| Some(Principal::new(&account.0)));
    refused(principals_own, BuildErrorKind::Value, "its scope must be `Scope::Session`");
    chain().identify_by::<User>(principal).build().unwrap();
    chain().value::<User>().identify_by::<User>(principal).build().unwrap();
}

#[test]
fn invalid_settings_are_refused() {
    use BuildErrorKind::Setting;
    refused(chain().idle(Duration::from_millis(999)), Setting, "under a second");
    refused(chain().idle(31 * DAY), Setting, "shorten `idle` or extend `absolute`");
    refused(chain().absolute(DAY), Setting, "shorten `idle` or extend `absolute`");
    chain().idle(DAY).absolute(DAY).build().unwrap();
    refused(chain().value::<Flash>(), BuildErrorKind::Value, "give `MAX_AGE` a longer time");
    refused(chain().principal_idle(Duration::ZERO), Setting, "`principal_idle` is under a second");
    let nothing = MemoryTier::builder().max_bytes(0).build();
    let chain_of = |memory| Sessions::builder().tier(memory).tier(cookie()).clock(ManualClock::new());
    refused(chain_of(nothing), Setting, "leave the tier out");
    for origin in ["https://app.example/", "app.example", "*", "null", "https://*.example"] {
        refused(chain().public_origins([origin]), Setting, "give `https://host` or `https://host:port`");
    }
}

// R10: a short, patterned, well-known or repeated key is an error, and the error names the remedy.
#[test]
fn weak_keys_are_refused() {
    let good = rand::random::<[u8; 32]>();
    for bad in [&good[..31], &[0; 32], &[0xff; 64], &good[..16].repeat(2), b"", b"secretsecretsecretsecretsecretsecret"]
    {
        refusal(KeyRing::new([bad]), BuildErrorKind::Key, "`openssl rand -hex 32`");
        refusal(KeyRing::new([&good, bad]), BuildErrorKind::Key, "`openssl rand -hex 32`");
        let ring = KeyRing::new([good]).unwrap();
        refusal(ring.replace([bad]), BuildErrorKind::Key, "`openssl rand -hex 32`");
    }
    refusal(KeyRing::new([&good, &good]), BuildErrorKind::Key, "in the ring already");
    refusal(KeyRing::new([[0; 0]; 0]), BuildErrorKind::Key, "has no key");
    refusal(KeyRing::from_hex("not hex"), BuildErrorKind::Key, "is not hex");
    refusal(KeyRing::from_env("LAYERED_SESSION_UNSET"), BuildErrorKind::Key, "is not set");
}

/// A cookie path of so many bytes.
fn path_of(bytes: usize) -> String {
    format!("/{}", "p".repeat(bytes - 1))
}

/// A domain of so many bytes.
fn domain_of(bytes: usize) -> String {
    format!("{}.org", "d".repeat(bytes - 4))
}

#[test]
fn maximum_path_and_domain_are_accepted() {
    let tier = cookie().name("a").path(path_of(1_024)).domain(domain_of(255)).formerly(path_of(1_024), None);
    Sessions::builder().tier(tier).clock(ManualClock::new()).build().unwrap();
}

#[test]
fn invalid_cookie_settings_are_refused() {
    for (tier, remedy) in [
        (cookie().name("a b"), "use up to 64 letters"),
        (cookie().name("n".repeat(65)), "use up to 64 letters"),
        (cookie().name("a\r\nSet-Cookie: b"), "use up to 64 letters"),
        (cookie().name("__Host-a").plain_http(), "leave out `plain_http()`"),
        (cookie().name("__secure-a").plain_http(), "choose a name without the prefix"),
        (cookie().name("__Http-a").plain_http(), "leave out `plain_http()`"),
        (cookie().name("__Host-Http-a").plain_http(), "leave out `plain_http()`"),
        (cookie().plain_http().same_site(SameSite::None), "leave out `plain_http()`"),
        (cookie().formerly("/app", None), "leave out `formerly`"),
        (cookie().formerly("/", None), "leave out this `formerly`"),
        (cookie().name("a").path("/app").formerly("/app", None), "leave out this `formerly`"),
        (cookie().name("a").domain(".Example.org").formerly("/", "example.org"), "leave out this `formerly`"),
        (cookie().name("a").formerly("app", None), "begins with `/`"),
        (cookie().name("a").formerly("/; Domain=example.org", None), "without `;`"),
        (cookie().name("a").formerly("/", "a;b"), "give a host name"),
        (cookie().name("a").formerly("/", Some("")), "give a host name"),
        (cookie().domain("example.org"), "such as `__Secure-session`"),
        (cookie().path("/app"), "such as `__Secure-session`"),
        (cookie().name("a").path("app"), "begins with `/`"),
        (cookie().name("a").path("/\r\nSet-Cookie: b"), "printable ASCII"),
        (cookie().name("a").path("/a b"), "printable ASCII"),
        (cookie().name("a").path("/\u{7f}"), "printable ASCII"),
        (cookie().name("a").path("/; Domain=example.org"), "without `;`"),
        (cookie().name("a").path(path_of(1_025)), "use up to 1,024"),
        (cookie().name("a").formerly(path_of(1_025), None), "use up to 1,024"),
        (cookie().name("a").domain(domain_of(256)), "use up to 255"),
        (cookie().name("a").formerly("/", &*domain_of(256)), "use up to 255"),
        (cookie().name("a").domain("example.org; Path=/"), "give a host name"),
        (cookie().name("a").domain(""), "give a host name"),
        (cookie().name("a").domain("."), "give a host name"),
        (cookie().name("a").domain("org"), "give a host name"),
        (cookie().name("a").domain(".org"), "give a host name"),
        (cookie().name("a").domain("example..org"), "give a host name"),
        (cookie().name("a").domain("example.org."), "give a host name"),
    ] {
        refused(Sessions::builder().tier(tier).clock(ManualClock::new()), BuildErrorKind::Cookie, remedy);
    }
}

// R19: the cookie and its removal have the configured attributes, and the removal repeats the attributes of the
// creation.
#[tokio::test]
async fn cookie_and_removal_follow_settings() {
    let other = || cookie().name("__Secure-a").path("/app").domain("example.org").same_site(SameSite::Strict);
    for (tier, name, attributes) in [
        (cookie(), "__Host-session", "HttpOnly; SameSite=Lax; Secure; Path=/"),
        (cookie().same_site(SameSite::Strict), "__Host-session", "HttpOnly; SameSite=Strict; Secure; Path=/"),
        (cookie().same_site(SameSite::None), "__Host-session", "HttpOnly; SameSite=None; Secure; Path=/"),
        (cookie().plain_http(), "session", "HttpOnly; SameSite=Lax; Path=/"),
        (other(), "__Secure-a", "HttpOnly; SameSite=Strict; Secure; Path=/app; Domain=example.org"),
        (other().name("a"), "a", "HttpOnly; SameSite=Strict; Secure; Path=/app; Domain=example.org"),
    ] {
        let sessions = Sessions::builder().tier(memory()).tier(tier).value::<Theme>().clock(ManualClock::new());
        let node = Node::new(sessions.build().unwrap());
        let mut browser = Browser::at("https://app.example.org/app");
        let made = browser.told(&node, async |session| session.set(dark()).await.unwrap()).await;
        let token = browser.cookie(name).unwrap();
        assert_eq!(made, [format!("{name}={token}; {attributes}; Max-Age=172740")]);
        let removed = browser.told(&node, async |session| session.destroy().await.unwrap()).await;
        assert_eq!(removed, [format!("{name}=; {attributes}; Max-Age=0")]);
        assert_eq!(browser.cookie(name), None);
    }
}
