//! The secrets that the inspector never shows: ids, tokens, keys, the signed-in user, and all data of other visitors.

use http::Method;
use layered_session::{
    DefaultTier, KeyRing, Principal, SharedTier,
    testing::{Call, SpyStore},
};
use serde_json::json;

use super::{HEARTBEAT, Page, ask, report, request, tiers};
use crate::support::{
    Answer, App, Browser, Division, Node, first_write, id_of, set, sign_in, signed_in, spellings, theme,
};

// R29, R32, R36: the page, its report and its events hide ids, tokens and keys, and all values of other users.
#[tokio::test]
async fn report_hides_secrets_and_other_users() {
    let key: [u8; 32] = rand::random();
    let app = App::with_keys(KeyRing::new([key]).unwrap());
    let store = SpyStore::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (mut ada, mut bob) = (Browser::new(), Browser::new());
    let (mut told, mut tokens, mut pages) = (String::new(), Vec::new(), Vec::new());
    for (browser, user, division, name) in
        [(&mut ada, "canary-ada", 1, "canary-a"), (&mut bob, "canary-bob", 5, "canary-b")]
    {
        sign_in(browser, &node, user).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
        pages.push(Page::open(browser, &node).await);
        set(browser, &node, Division(division)).await;
        set(browser, &node, theme(name)).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
    }
    let mut others = pages.pop().unwrap();
    let mut page = pages.pop().unwrap();
    for end in [0, 1] {
        told += &page.told();
        app.pass(HEARTBEAT);
        told += &page.told();
        node.sessions.for_principal(Principal::new("canary-ada")).await.unwrap().set(Division(2 + end)).await.unwrap();
        node.sessions.for_principal(Principal::new("canary-bob")).await.unwrap().set(Division(4)).await.unwrap();
        told += &page.told();
    }
    sign_in(&mut ada, &node, "canary-ada").await;
    tokens.extend(ada.cookie("session").map(str::to_owned));
    told += &page.told();
    told += &Page::open(&ada, &node).await.told();
    told +=
        &String::from_utf8(Answer::of(ask(&node, request(&ada, Method::GET, "/")).await).await.body.into()).unwrap();

    assert!(told.contains("canary-ada") && told.contains("canary-a\"") && told.contains("\"current_division_id\""));
    assert!(others.told().contains("canary-b\""));
    assert!(!told.contains("canary-b"), "a value of another user is shown");
    let owners: Vec<_> = store.take_calls().iter().map(Call::owner).collect();
    assert!(owners.len() > 8 && tokens.len() == 5);
    for token in &tokens {
        assert!(!told.contains(&token[..24]) && !told.contains(&token[60..84]), "a token is shown");
        assert!(spellings(&id_of(token)).iter().all(|id| !told.contains(id)), "a session's id is shown");
    }
    for owner in owners {
        assert!(spellings(owner.as_bytes()).iter().all(|id| !told.contains(id)), "an owner's hash is shown");
    }
    assert!(spellings(&key).iter().all(|key| !told.contains(key)), "a key is shown");
    let shown = report(&ada, &node).await;
    assert_eq!(shown["chain"], json!(["memory", "cookie", "spy", "default"]));
    let asked = "asked when the session was loaded: the session took over the store's copies";
    assert_eq!(tiers(&shown, "theme")[2], ["spy", "not_asked", asked]);
}

#[tokio::test]
async fn report_hides_user_name() {
    let app = App::new();
    // This node identifies the user by the request head. No value of the session contains the user's name, so the report
    // must not show the name.
    let node = Node::new(
        app.chain(DefaultTier::new()).value::<Division>().identify(|_| Some(Principal::new("canary"))).build().unwrap(),
    );
    let browser = first_write(&node, Division(2)).await;
    let told = Page::open(&browser, &node).await.told();
    assert!(told.contains("\"signed_in\":true") && !told.contains("canary"), "{told}");
    let ada = signed_in(&app.start(), "ada").await;
    assert_eq!(report(&ada, &app.start()).await["session"]["signed_in"], true);
}
