//! Schedule tests: two threads each run one operation of the same session, and a scheduler chooses the order of their
//! steps. See `tests/README.md`.
//!
//! The outcome must be an outcome of the two operations in sequence, in either order.

use std::{
    sync::{Arc, Mutex as StdMutex},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use serde::{Deserialize, Serialize};
use shuttle::{
    Config, Runner,
    future::block_on,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread,
};

use super::{load::token::RequestHead, loader::Arrival, *};
use crate::{
    cookie::{CookieTier, header::Fields, keyring::KeyRing},
    id::Principal,
    memory::{MemoryTier, record::Record},
    record::{life::Lifetime, state::Kind},
    sessions::Sessions,
};

#[derive(Debug, Serialize, Deserialize)]
struct User(String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Visits(u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug)]
enum Operation {
    SignIn,
    Renew,
    Destroy,
    EndAll,
    EndOthers,
    SetLifetime,
    Write,
}

const OPERATIONS: [Operation; 7] = [
    Operation::SignIn,
    Operation::Renew,
    Operation::Destroy,
    Operation::EndAll,
    Operation::EndOthers,
    Operation::SetLifetime,
    Operation::Write,
];

impl Operation {
    fn apply(self, session: &Session) -> String {
        let lifetime = || Lifetime::new(HOUR, HOUR).unwrap();
        let applied = block_on(async {
            match self {
                Self::SignIn => session.sign_in(User("bob".into())).await,
                Self::Renew => session.renew().await,
                Self::Destroy => session.destroy().await,
                Self::EndAll => session.end_all_sessions().await,
                Self::EndOthers => session.end_other_sessions().await,
                Self::SetLifetime => session.set_lifetime(lifetime()).await,
                Self::Write => session.set(Visits(2)).await,
            }
        });
        applied.map_or_else(|error| format!("{:?}", error.kind()), |()| "done".to_owned())
    }
}

/// Two handles of one session in which ada is signed in.
#[derive(Clone)]
struct Scene {
    of: Handles,
    node: Sessions,
    /// The browser's cookie from before the pair.
    before: HeaderValue,
    handles: [Session; 2],
}

/// The two handles of a pair.
#[derive(Clone, Copy, Debug)]
enum Handles {
    /// Clones of one handle.
    Clones,
    /// Two requests of one browser.
    Requests,
    /// Two requests of one browser that load the session as their operations begin.
    Arriving,
}

/// The outcome of a pair of operations.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    results: [String; 2],
    /// The user and the visits that each handle reads, and the session's idle lifetime.
    reads: [(String, Option<Visits>, Option<Duration>); 2],
    one_session: bool,
    /// The user of the cookie from before the pair, and of each response's cookie.
    users: [String; 3],
}

impl Scene {
    fn new(of: Handles) -> Self {
        let sessions = Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(KeyRing::generate().unwrap()).name("session").plain_http())
            .value::<Visits>()
            .identify_by::<User>(|user| Some(Principal::new(&user.0)));
        let node = sessions.build().unwrap();
        let first = load(&node, None);
        block_on(async {
            first.sign_in(User("ada".into())).await.unwrap();
            first.set(Visits(1)).await.unwrap();
        });
        let before = cookie(&node, &first).unwrap();
        let one = load(&node, Some(&before));
        let other = match of {
            Handles::Clones => one.clone(),
            Handles::Requests | Handles::Arriving => load(&node, Some(&before)),
        };
        Self { of, node, before, handles: [one, other] }
    }

    /// Runs an operation, and returns its result as text with the handle.
    fn run(&self, at: usize, operation: Operation) -> (String, Session) {
        let session = match self.of {
            Handles::Clones | Handles::Requests => self.handles[at].clone(),
            Handles::Arriving => load(&self.node, Some(&self.before)),
        };
        (operation.apply(&session), session)
    }

    fn outcome(&self, ran: [(String, Session); 2]) -> Outcome {
        let [(one, first), (other, second)] = ran;
        let (results, handles) = ([one, other], [first, second]);
        let now = self.node.node.now();
        let live = |session: &Session| session.shared().live(now).ok();
        let idle = |record: Arc<Record>| match &record.read().kind {
            Kind::Session { life, .. } => Some(life.idle()),
            _ => None,
        };
        let read = |session: &Session| (user(session), session.get::<Visits>(), live(session).and_then(idle));
        let keys = handles.each_ref().map(|session| live(session).map(|record| *record.key()));
        let of_response = |session: &Session| match cookie(&self.node, session) {
            Some(cookie) if cookie.to_str().unwrap().contains("Max-Age=0") => "removed".to_owned(),
            Some(cookie) => user(&load(&self.node, Some(&cookie))),
            None => "kept".to_owned(),
        };
        let [one, other] = handles.each_ref().map(of_response);
        Outcome {
            results,
            reads: handles.each_ref().map(read),
            one_session: keys[0] == keys[1],
            users: [user(&load(&self.node, Some(&self.before))), one, other],
        }
    }
}

fn load(node: &Sessions, cookie: Option<&HeaderValue>) -> Session {
    let mut headers = HeaderMap::new();
    if let Some(cookie) = cookie {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        headers.insert(COOKIE, HeaderValue::try_from(pair).unwrap());
    }
    let (node, cookies) = (Arc::clone(&node.node), Fields::note(&mut headers));
    Loader::new(Arrival {
        head: RequestHead { node, cookies, cross_site: None, upgrade: false, facts: None },
        refused: None,
        outer: None,
    })
    .load_now()
    .unwrap()
}

fn cookie(node: &Sessions, session: &Session) -> Option<HeaderValue> {
    cookie_out::set_cookie(session.shared(), node.node.now())
}

fn user(session: &Session) -> String {
    session.principal().map_or_else(|| "nobody".to_owned(), |principal| principal.as_str().to_owned())
}

/// The outcomes of the two sequences of a pair, with the results in the pair's order.
fn sequences(of: Handles, pair: [Operation; 2]) -> Vec<Outcome> {
    let found = Arc::new(StdMutex::new(Vec::new()));
    let out = Arc::clone(&found);
    let both = move || {
        for first in [0, 1] {
            let scene = Scene::new(of);
            let mut ran = [first, 1 - first].map(|at| scene.run(at, pair[at]));
            if first == 1 {
                ran.swap(0, 1);
            }
            out.lock().unwrap().push(scene.outcome(ran));
        }
    };
    run(RandomScheduler::new(1), both);
    let found = found.lock().unwrap();
    found.clone()
}

fn at_once(of: Handles, pair: [Operation; 2], expected: &[Outcome]) {
    let scene = Scene::new(of);
    let [one, other] = [0, 1].map(|at| {
        let scene = scene.clone();
        thread::spawn(move || scene.run(at, pair[at]))
    });
    let outcome = scene.outcome([one.join().unwrap(), other.join().unwrap()]);
    // `EndAll` may read the user before the other operation ends the session. `EndAll` then succeeds, although `EndAll`
    // fails in sequence.
    let alike = |outcome: &Outcome| {
        let mut outcome = outcome.clone();
        pair.iter().zip(&mut outcome.results).filter(|(operation, _)| matches!(operation, Operation::EndAll)).for_each(
            |(_, result)| {
                "done".clone_into(result);
            },
        );
        outcome
    };
    // `EndOthers` revokes the user's sessions, then renews its own. If the other operation comes between the two,
    // `EndOthers` fails, and all sessions have ended. Two calls of `EndOthers` never meet.
    let ends_others = pair.iter().filter(|operation| matches!(operation, Operation::EndOthers)).count() == 1;
    let is_over = ends_others && !outcome.users.iter().any(|user| user == "ada");
    let expected_one = expected.iter().any(|sequence| alike(sequence) == alike(&outcome));
    assert!(expected_one || is_over, "{of:?} {pair:?}: \n{outcome:?}\nis none of\n{expected:?}");
}

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // A debug build seals cookies in more than the 32 KiB that a thread has else.
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(test);
}

/// Tries a twentieth of the schedules of other tests for each pair: there are 28 pairs.
fn check(of: Handles) {
    let orders = std::env::var("SCHEDULES").map_or(2000, |orders| orders.parse::<usize>().expect("a number")) / 20;
    for (at, one) in OPERATIONS.into_iter().enumerate() {
        for other in &OPERATIONS[at..] {
            let pair = [one, *other];
            let mut expected = sequences(of, pair);
            if matches!(of, Handles::Arriving) {
                // Both requests may load the session before either operation.
                expected.extend(sequences(Handles::Requests, pair));
            }
            let expected = Arc::new(expected);
            let test = move || at_once(of, pair, &expected);
            run(RandomScheduler::new(orders), test.clone());
            run(PctScheduler::new(3, orders), test);
        }
    }
}

#[test]
fn operations_of_clones_are_serializable() {
    check(Handles::Clones);
}

#[test]
fn operations_of_arriving_requests_are_serializable() {
    check(Handles::Arriving);
}

#[test]
fn operations_of_two_requests_are_serializable() {
    check(Handles::Requests);
}
