//! Valid values: false, zero, empty and null count as values. A text that the type refuses is no
//! value, from any tier.

use std::{collections::BTreeMap, error::Error};

use http::StatusCode;
use layered_session::{
    BuildErrorKind, DefaultTier, Scope, Session, SessionValue, WriteError, WriteErrorKind, tier::Found,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, Division, Node, NumberedTheme, Theme, Visits, at_once, first_write, get, post, seen, set, socket,
    theme,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Flag(bool);

impl SessionValue for Flag {
    const NAME: &'static str = "flag";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Choice(Option<u8>);

impl SessionValue for Choice {
    const NAME: &'static str = "choice";
}

// G1: `false`, zero, an empty text and `null` answer before the defaults, from memory and from the cookie.
#[tokio::test]
async fn false_zero_and_null_are_answers() {
    let app = App::new();
    let defaults = || DefaultTier::new().value(Flag(true)).value(Visits(7)).value(theme("x")).value(Choice(Some(1)));
    let node = || {
        let chain = app.chain(defaults()).value::<Flag>().value::<Visits>().value::<Theme>().value::<Choice>();
        Node::new(chain.build().unwrap())
    };
    let all = async |session: Session| {
        (
            session.value::<Flag>().0,
            session.value::<Visits>().0,
            session.value::<Theme>().0,
            session.value::<Choice>().0,
        )
    };
    let (first, mut browser) = (node(), Browser::new());
    assert_eq!(browser.visit(&first, all).await, (true, 7, "x".into(), Some(1)));
    let falsy = async |session: Session| {
        session.batch().set(Flag(false)).set(Visits(0)).set(theme("")).set(Choice(None)).commit().await.unwrap();
    };
    browser.visit(&first, falsy).await;
    for node in [first, node()] {
        assert_eq!(browser.visit(&node, all).await, (false, 0, String::new(), None));
    }
}

// G1, G20: a copy of the wrong type is skipped until the next write, affects no other value, and can't be posted.
#[tokio::test]
async fn copy_of_wrong_type_is_skipped() {
    let app = App::new();
    let earlier = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().value::<Visits>().build().unwrap());
    let chain = app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().value::<Visits>();
    let (node, mut browser) = (Node::new(chain.value::<Division>().build().unwrap()), Browser::new());
    set(&mut browser, &earlier, NumberedTheme(7)).await;
    set(&mut browser, &earlier, Visits(2)).await;
    for _ in 0..3 {
        assert_eq!(seen(&mut browser, &node).await, (theme("light"), "default"));
        assert_eq!(get::<Visits>(&mut browser, &node).await, Visits(2), "the wrong type affected another value");
    }
    for body in [r#"{"theme": 7}"#, r#"{"theme": null}"#, r#"{"visits": -1}"#, r#"{"visits": "2"}"#] {
        let answer = post(&mut browser, &node, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value"));
    }
    set(&mut browser, &node, Visits(3)).await;
    assert_eq!(
        get::<NumberedTheme>(&mut browser, &earlier).await,
        NumberedTheme(7),
        "the read deleted the skipped copy"
    );
    set(&mut browser, &node, theme("dark")).await;
    for node in [node, app.start()] {
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    }
}

// G1: a watch passes over a copy of the wrong type, and sees the next write.
#[tokio::test]
async fn watch_skips_wrong_type() {
    let app = App::new();
    let earlier = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().build().unwrap());
    let node = Node::new(app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().build().unwrap());
    let mut browser = first_write(&earlier, NumberedTheme(7)).await;
    let mut page = socket(&browser, &node).await.watch::<Theme>();
    assert_eq!(at_once(page.next()), Some(Some(theme("light"))));
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(at_once(page.next()), Some(Some(theme("dark"))));
}

/// A map whose keys JSON can't hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Grid(BTreeMap<(u8, u8), u8>);

impl SessionValue for Grid {
    const NAME: &'static str = "grid";
}

/// JSON has no `NaN`: serde writes `null`, which is no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ratio(f64);

impl SessionValue for Ratio {
    const NAME: &'static str = "ratio";
}

#[tokio::test]
async fn unencodable_value_returns_serde_error() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Grid>().value::<Ratio>().build().unwrap());
    let grid = || Grid(BTreeMap::from([((1, 2), 3)]));
    let told = |error: &dyn Error| (error.to_string(), error.source().map(|source| source.is::<serde_json::Error>()));
    let errors = async move |session: Session| {
        let set = session.set(grid()).await.unwrap_err();
        let update = session.update::<Grid>(|grid| grid.0.extend([((0, 0), 0)])).await.unwrap_err();
        let batch = session.batch().set(grid()).commit().await.unwrap_err();
        assert!([&set, &update, &batch].iter().all(|error| error.kind() == WriteErrorKind::Invalid));
        ([set, update, batch], session.set(Ratio(f64::NAN)).await.unwrap_err())
    };
    let (unencodable, one_way) = Browser::new().visit(&node, errors).await;
    let expected = ("`grid` can't be encoded as JSON".to_owned(), Some(true));
    assert_eq!(unencodable.map(|error| told(&error)), [(); 3].map(|()| expected.clone()));
    assert_eq!(told(&one_way), ("`ratio` encodes to JSON that does not decode again (at column 4)".to_owned(), None));

    assert_eq!(told(&*Found::value(&grid()).err().unwrap()), expected);
    let default = app.chain(DefaultTier::new().value(grid())).value::<Grid>().build().unwrap_err();
    let message = "the default for `grid` can't be used: `grid` can't be encoded as JSON";
    assert_eq!(told(&default), (message.to_owned(), Some(true)));
}

/// [`Division`] in a build without bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct AnyDivision(i64);

impl SessionValue for AnyDivision {
    const NAME: &'static str = Division::NAME;
    const SCOPE: Scope = Scope::Principal;
}

#[tokio::test]
async fn invalid_value_is_refused_everywhere() {
    let app = App::new();
    let twice = app.chain(DefaultTier::new()).value::<Division>().value::<AnyDivision>().build().unwrap_err();
    assert_eq!(twice.kind(), BuildErrorKind::Value);
    let lax = Node::new(app.chain(DefaultTier::new()).value::<AnyDivision>().build().unwrap());
    let (node, mut browser) = (app.start(), Browser::new());
    set(&mut browser, &lax, AnyDivision(9)).await;
    assert_eq!(seen(&mut browser, &node).await, (Division(-1), "default"), "the cookie has an invalid copy");
    assert_eq!(post(&mut browser, &node, r#"{"current_division_id": 9}"#).await.code(), "invalid_value");
    let kinds = async |session: Session| {
        let kind = |error: WriteError| error.kind();
        let set = session.set(Division(9)).await.map_err(kind);
        let update = session.update::<Division>(|division| division.0 = 9).await.map_err(kind);
        let other = session.set(AnyDivision(9)).await.map_err(kind);
        (set.unwrap_err(), update.unwrap_err(), other.unwrap_err())
    };
    let (invalid, undeclared) = (WriteErrorKind::Invalid, WriteErrorKind::Undeclared);
    assert_eq!(browser.visit(&node, kinds).await, (invalid, invalid, undeclared));
    post(&mut browser, &node, r#"{"current_division_id": 5}"#).await;
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(5));
    assert_eq!(get::<AnyDivision>(&mut browser, &lax).await, AnyDivision(5));
}
