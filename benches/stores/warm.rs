//! Requests that memory answers, with and without a store behind memory: instructions counted by callgrind, and time.

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{Request, Response};
use layered_session::{KeyRing, LayeredSessionLayer, Session, Sessions, SqliteStore, tier::BoxError};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};
use tower::{Layer, Service, service_fn};

use super::{
    report::{self, Samples},
    site::{Act, Browser, follow, node, read, redis_node},
};

/// The requests that callgrind counts in each run.
const COUNTED: usize = 512;

/// The browsers, which take turns.
const BROWSERS: usize = 64;

/// The requests of a turn.
const BATCH: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Nobody,
    SignedIn,
}

impl User {
    const ALL: [Self; 2] = [Self::Nobody, Self::SignedIn];

    const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "anonymous",
            Self::SignedIn => "signed in",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|user| user.name() == name)
    }
}

/// A node with browsers whose sessions are in memory.
struct Subject {
    call: Box<dyn FnMut(Request<()>) -> Response<()>>,
    browsers: Vec<Browser>,
    turn: usize,
    runtime: Runtime,
}

impl Subject {
    /// Makes a node over the server at the port, or a node without a store.
    fn new(user: User, port: Option<u16>) -> Result<Self, BoxError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let keys = KeyRing::generate()?;
        let (node, browsers) = runtime.block_on(async {
            let node = match port {
                Some(port) => redis_node(&keys, port)?,
                None => node::<SqliteStore>(&keys, None)?,
            };
            if port.is_some() {
                follow(&node).await;
            }
            Ok::<_, BoxError>((node.clone(), browsers(&node, user).await?))
        })?;
        let mut service = LayeredSessionLayer::new(node).layer(service_fn(async |request: Request<()>| {
            let session = Session::load(request.extensions()).await?;
            read(&session);
            Ok::<_, BoxError>(Response::new(()))
        }));
        let call = move |request| {
            service.call(request).now_or_never().expect("a warm request waits for nothing").expect("an answer")
        };
        let mut subject = Self { call: Box::new(call), browsers, turn: 0, runtime };
        // One request of each browser warms all caches.
        for _ in 0..BROWSERS {
            let request = subject.request();
            assert!(
                subject.measured(request).headers().get("set-cookie").is_none(),
                "a warm request changes no cookie"
            );
        }
        Ok(subject)
    }

    fn request(&mut self) -> Request<()> {
        self.turn += 1;
        self.browsers[self.turn % BROWSERS].request()
    }

    /// The call that callgrind counts.
    #[inline(never)]
    fn measured(&mut self, request: Request<()>) -> Response<()> {
        (self.call)(request)
    }
}

async fn browsers(node: &Sessions, user: User) -> Result<Vec<Browser>, BoxError> {
    let acts: &[Act] = match user {
        User::Nobody => &[Act::Begin],
        User::SignedIn => &[Act::Begin, Act::SignIn, Act::SetOfUser],
    };
    let mut browsers = Vec::with_capacity(BROWSERS);
    for _ in 0..BROWSERS {
        browsers.push(Browser::after(node, acts).await?);
    }
    // Until each browser's cookie is current.
    for browser in &mut browsers {
        browser.visit(node, Act::Read).await?;
        browser.visit(node, Act::Read).await?;
    }
    Ok(browsers)
}

/// The argument that makes this program send the counted requests.
pub(crate) const COUNT: &str = "--count";

/// Sends the requests that callgrind counts.
pub(crate) fn count(user: &str, port: &str) -> Result<(), BoxError> {
    let port = (port != "none").then(|| port.parse()).transpose()?;
    let mut subject = Subject::new(User::named(user).ok_or("no such user")?, port)?;
    // The warming requests are counted too.
    for _ in 0..COUNTED - BROWSERS {
        let request = subject.request();
        black_box(subject.measured(request));
    }
    Ok(())
}

pub(crate) fn print(port: u16, rounds: usize) -> Result<(), BoxError> {
    report::title("a warm request that reads three values, with a store / without");
    let mut counts = Vec::new();
    for user in User::ALL {
        for port in [Some(port), None] {
            counts.push(instructions(user, port)?);
        }
    }
    for (user, counts) in User::ALL.iter().zip(counts.chunks(2)) {
        let name = format!("instructions, {}", user.name());
        match counts {
            [Some(with), Some(without)] => report::compare(&name, *with, *without, Some(1.03)),
            _ => println!("{name:<68} not measured: install valgrind, as `apt-get install valgrind`"),
        }
    }
    for user in User::ALL {
        let mut subjects = [Subject::new(user, Some(port))?, Subject::new(user, None)?];
        let mut samples: [Samples; 2] = Default::default();
        for round in 0..rounds {
            for turn in 0..2 {
                let at = (round + turn) % 2;
                samples[at].push(batch(&mut subjects[at]));
            }
            if round % 256 == 0 {
                // The follower of the notices gets its turn.
                subjects[0].runtime.block_on(async { sleep(Duration::from_millis(1)).await });
            }
        }
        let [with, without] = samples.map(|mut samples| samples.median());
        report::compare(&format!("time, ns, {}", user.name()), with, without, None);
    }
    Ok(())
}

/// Returns the nanoseconds of a request. The time excludes making requests and dropping responses.
fn batch(subject: &mut Subject) -> f64 {
    let requests: Vec<_> = (0..BATCH).map(|_| subject.request()).collect();
    let mut responses = Vec::with_capacity(BATCH);
    let start = Instant::now();
    for request in requests {
        responses.push(subject.measured(request));
    }
    start.elapsed().as_nanos() as f64 / BATCH as f64
}

/// Runs this program under callgrind, and returns the instructions of a request; `None` without valgrind.
fn instructions(user: User, port: Option<u16>) -> Result<Option<f64>, BoxError> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(None);
    }
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured*", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([COUNT, user.name(), &port.map_or_else(|| "none".to_owned(), |port| port.to_string())])
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected : ")).filter(|_| output.status.success());
    let (_, total) = collected.ok_or_else(|| format!("callgrind collected nothing:\n{log}"))?;
    Ok(Some(total.trim().parse::<f64>()? / COUNTED as f64))
}
