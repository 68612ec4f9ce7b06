//! Deploys that change the path or domain of the cookie. A browser then holds two cookies of the same name.

use http::{Response, header};
use http_body_util::Full;
use layered_session::{
    CookieTier, KeyRing, SameSite, Session, WriteErrorKind,
    testing::{Cookie, ManualClock},
};

use crate::support::{
    Browser, Node, TICK, Theme, User, attributes, chain, cookie, declared, kind, memory, ring, set_cookies, sign_in,
    theme,
};

/// The keys and the clock that all nodes share, before and after such a deploy.
struct Deploys {
    ring: KeyRing,
    clock: ManualClock,
}

impl Deploys {
    fn new() -> Self {
        Self { ring: ring(), clock: ManualClock::new() }
    }

    fn node(&self, place: impl FnOnce(CookieTier) -> CookieTier) -> Node {
        Node::new(declared(memory(), place(cookie(&self.ring)), &self.clock).build().unwrap())
    }

    /// Before the deploy: the cookie's path is `/app`.
    fn old(&self) -> Node {
        self.node(|cookie| cookie.path("/app"))
    }

    /// After the deploy: the cookie's path is `/`.
    fn new_node(&self) -> Node {
        self.node(|cookie| cookie.formerly("/app", None))
    }

    /// After the deploy, but without a declaration of the old path.
    fn careless(&self) -> Node {
        self.node(|cookie| cookie)
    }
}

/// A browser that sends the cookies of all these paths.
fn browser() -> Browser {
    Browser::at("https://app.example.org/app")
}

impl Browser {
    /// The user of the browser's next request to a node.
    async fn user(&self, node: &Node) -> Option<String> {
        let user = async |session: Session| session.principal().map(|user| user.as_str().to_owned());
        self.clone().visit(node, user).await
    }

    /// The paths of the browser's cookies, the longest first.
    fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<_> = self.jar().iter().filter_map(Cookie::path).collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
        paths
    }
}

fn ada() -> Option<String> {
    Some("ada".to_owned())
}

#[tokio::test]
async fn session_moves_to_new_path() {
    let deploys = Deploys::new();
    let mut jar = browser();
    sign_in(&mut jar, &deploys.old(), "ada").await;
    let (node, other) = (deploys.new_node(), deploys.new_node());
    let (headers, ()) = jar.visit_seen(&node, async |session| drop(session.value::<Theme>())).await;
    assert_eq!((set_cookies(&headers).len(), jar.paths()), (0, vec!["/app"]), "a read does not move the cookie");
    assert_eq!(jar.write(&node, "dark").await.len(), 2);
    assert_eq!(jar.paths(), ["/"]);
    for node in [&node, &other] {
        assert_eq!(jar.user(node).await, ada());
        assert_eq!(jar.visit(node, async |session| session.value::<Theme>()).await, theme("dark"));
    }
    assert_eq!(jar.write(&node, "light").await.len(), 2, "each write removes the declared old path");
}

#[tokio::test]
async fn every_node_reads_moved_cookie() {
    let deploys = Deploys::new();
    let mut jar = browser();
    jar.write(&deploys.old(), "dark").await;
    let (node, second) = (deploys.new_node(), deploys.new_node());
    sign_in(&mut jar, &node, "ada").await;
    assert_eq!(jar.paths(), ["/"]);
    for node in [&node, &second, &deploys.new_node()] {
        assert_eq!(jar.user(node).await, ada());
    }
    // A node of the old deploy serves this browser again.
    jar.write(&deploys.old(), "light").await;
    assert_eq!(jar.paths(), ["/app", "/"]);
    assert_eq!(jar.user(&second).await, ada(), "two tokens of one session load the session");
    jar.write(&second, "green").await;
    assert_eq!(jar.paths(), ["/"]);
}

// A leftover cookie at an undeclared old path locks the user out, until `formerly` declares the path.
#[tokio::test]
async fn declared_old_path_ends_lockout() {
    let deploys = Deploys::new();
    let (careless, mut jar) = (deploys.careless(), browser());
    sign_in(&mut jar, &deploys.old(), "ada").await;
    jar.write(&careless, "dark").await;
    assert_eq!((jar.paths(), jar.user(&careless).await), (vec!["/app", "/"], ada()));
    sign_in(&mut jar, &careless, "ada").await;
    for node in [&careless, &deploys.careless()] {
        assert_eq!(jar.user(node).await, None, "the old path holds another id, which may be planted");
        let (headers, written) = jar.visit_seen(node, async |session| kind(session.set(theme("evil")).await)).await;
        assert_eq!((set_cookies(&headers).len(), written), (0, Some(WriteErrorKind::Closed)));
    }
    // Another sign-in does not help while the old path is not declared.
    sign_in(&mut jar, &careless, "ada").await;
    assert_eq!(jar.user(&careless).await, None);

    let (node, second) = (deploys.new_node(), deploys.new_node());
    sign_in(&mut jar, &node, "ada").await;
    assert_eq!(jar.paths(), ["/"]);
    for node in [&node, &second] {
        assert_eq!(jar.user(node).await, ada());
    }
}

#[tokio::test]
async fn duplicate_old_path_cookie_is_removed() {
    let deploys = Deploys::new();
    let mut jar = browser();
    sign_in(&mut jar, &deploys.old(), "ada").await;
    deploys.clock.advance(TICK);
    jar.write(&deploys.careless(), "dark").await;
    assert_eq!(jar.paths(), ["/app", "/"]);
    let (headers, _) = jar.clone().visit_seen(&deploys.new_node(), async |_| ()).await;
    assert_eq!(set_cookies(&headers), ["session=; HttpOnly; SameSite=Lax; Path=/app; Max-Age=0"]);
    assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    // A request with several sessions also removes the cookie of the old path. The token of the present path stays.
    let mut two = jar.clone();
    let mut other = browser();
    sign_in(&mut other, &deploys.old(), "bob").await;
    other.jar().iter().cloned().for_each(|cookie| two.plant(cookie));
    assert_eq!(two.paths(), ["/app", "/"]);
    assert_eq!(two.user(&deploys.new_node()).await, None);
    two.visit(&deploys.new_node(), async |session| drop(session.value::<Theme>())).await;
    assert_eq!((two.paths(), two.user(&deploys.new_node()).await), (vec!["/"], ada()));
}

#[tokio::test]
async fn sign_out_removes_all_cookie_paths() {
    let deploys = Deploys::new();
    let node = deploys.node(|cookie| cookie.formerly("/app", None).formerly("/", "example.org"));
    let mut jar = browser();
    sign_in(&mut jar, &deploys.old(), "ada").await;
    jar.write(&deploys.careless(), "dark").await;
    jar.write(&deploys.node(|cookie| cookie.domain("example.org")), "light").await;
    assert_eq!(jar.jar().iter().count(), 3);
    let (headers, ()) = jar.visit_seen(&node, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(
        set_cookies(&headers),
        [
            "session=; HttpOnly; SameSite=Lax; Path=/app; Max-Age=0",
            "session=; HttpOnly; SameSite=Lax; Path=/; Domain=example.org; Max-Age=0",
            "session=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0",
        ]
    );
    assert_eq!(jar.jar().iter().count(), 0);
}

// R19: the cookie removals at the former paths and domains repeat the attributes of the cookie.
#[tokio::test]
async fn cookie_removal_repeats_attributes() {
    let cookie = |ring: &KeyRing| CookieTier::sealed(ring.clone()).name("__Secure-a").same_site(SameSite::Strict);
    let (ring, clock) = (ring(), ManualClock::new());
    let cookie = cookie(&ring).path("/").domain("example.org").formerly("/app", "example.org").formerly("/", None);
    let sessions = chain(memory(), cookie, &clock).value::<Theme>();
    let node = Node::new(sessions.build().unwrap());
    let mut browser = browser();
    assert_eq!(browser.write(&node, "dark").await.len(), 1, "the request has no token to move");
    let set = browser.write(&node, "light").await;
    let attributes: Vec<_> = set.iter().map(|set| attributes(set)).collect();
    assert_eq!(
        attributes,
        [
            "HttpOnly; SameSite=Strict; Secure; Path=/app; Domain=example.org; Max-Age=0",
            "HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=0",
            "HttpOnly; SameSite=Strict; Secure; Path=/; Domain=example.org; Max-Age=172740",
        ]
    );
    assert_eq!(browser.read(&node).await, [""; 0]);
}

#[tokio::test]
async fn only_own_tokens_cause_removals() {
    let node = Deploys::new().new_node();
    assert_eq!(browser().write(&node, "dark").await.len(), 1);
    let mut garbage = browser();
    for (value, path) in [("garbage", "/"), ("more", "/app")] {
        garbage.plant(Cookie::build(("session", value)).path(path).build());
    }
    assert_eq!(garbage.write(&node, "dark").await.len(), 1);
}

#[tokio::test]
async fn cross_site_request_removes_no_cookie() {
    let deploys = Deploys::new();
    let (mut first, mut second) = (browser(), browser());
    sign_in(&mut first, &deploys.old(), "ada").await;
    sign_in(&mut second, &deploys.careless(), "bob").await;
    second.jar().iter().cloned().for_each(|cookie| first.plant(cookie));
    assert_eq!(first.paths(), ["/app", "/"]);
    let mut form = first.request();
    form.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    let signs_in =
        async |session: Session| (Response::new(Full::default()), kind(session.sign_in(User("eve".into())).await));
    let (response, refused) = deploys.new_node().handle(form, signs_in).await;
    assert_eq!((set_cookies(response.headers()).len(), refused), (0, Some(WriteErrorKind::Closed)));
}
