//! The cost of watchers: the time from a write to its last watcher, and the memory per watcher, beside
//! `tokio::sync::watch`, which does the same for a value without an owner. `benches/README.md` explains the figures.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use allocation_counter::measure;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, header};
use layered_session::{
    CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions, Watch,
    testing::set_cookies, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, watch},
};
use tower::{Layer, ServiceExt, service_fn};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Count(i64);

impl SessionValue for Count {
    const NAME: &'static str = "count";
}

/// The number of owners in the measurement of memory, each with one watcher.
const OWNERS: usize = 100_000;

fn main() -> Result<(), BoxError> {
    // `cargo test --benches` runs each bench once, without a measurement.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let (writes, owners) = if measures { (200_000, OWNERS) } else { (20, 100) };

    println!("{:<44} {:>10} {:>10} {:>7}", "", "session", "watch", "ratio");
    for threads in [Threads::Others, Threads::Same] {
        println!("write to last delivery, watchers on {threads}");
        for watchers in [1, 1_000, 10_000] {
            // Session and `watch` take turns, so that other load of the machine slows both alike.
            let rounds = (writes / watchers).clamp(20, 20_000);
            let (ours, bare) = (Delivery::ours(watchers, threads)?, Delivery::bare(watchers, threads)?);
            let (mut our_times, mut bare_times) = (Vec::new(), Vec::new());
            for round in 1..=rounds as i64 {
                our_times.push(ours.deliver(round));
                bare_times.push(bare.deliver(round));
            }
            row(&format!("{watchers} watchers, us"), median(our_times), median(bare_times));
        }
    }

    let (ours, bare) = (ours_in_memory(owners)?, bare_in_memory(owners)?);
    row("memory per watcher that waits, bytes", ours, bare);
    let (many, few) = if measures { (40_000, 1_000) } else { (40, 10) };
    println!("{:<44} {:>10} {:>10} {:>7}", "", many, few, "ratio");
    row("further watch beside so many of a handle, ns", registration_beside(many)?, registration_beside(few)?);
    let writes = if measures { 10_000 } else { 10 };
    let (alone, stalled) = (Writes::beside(Reader::Gone, writes)?, Writes::beside(Reader::Stalled, writes)?);
    println!("{:<44} {:>10} {:>10} {:>7}", "", "stalled", "none", "ratio");
    row("write with a stalled watcher, us", stalled.time, alone.time);
    row("memory after 10,000 such writes, bytes", stalled.left, alone.left);
    Ok(())
}

fn row(name: &str, ours: f64, bare: f64) {
    println!("{name:<44} {ours:>10.1} {bare:>10.1} {:>7.2}", ours / bare);
}

/// An owner, and the tasks that wait for the owner's value.
struct Delivery {
    runtime: Runtime,
    writer: Writer,
    watchers: usize,
    done: Arc<Done>,
}

#[derive(Clone)]
enum Writer {
    Ours(Session),
    Bare(watch::Sender<i64>),
}

impl Writer {
    async fn write(&self, value: i64) {
        match self {
            Self::Ours(session) => session.set(Count(value)).await.expect("a write"),
            Self::Bare(sender) => sender.send(value).expect("receivers"),
        }
    }
}

/// Counts the watchers that have seen the newest value.
#[derive(Default)]
struct Done {
    seen: AtomicUsize,
    all: Notify,
}

impl Done {
    fn see(&self, of: usize) {
        if self.seen.fetch_add(1, Ordering::AcqRel) + 1 == of {
            self.all.notify_one();
        }
    }
}

impl Delivery {
    fn ours(watchers: usize, threads: Threads) -> Result<Self, BoxError> {
        let runtime = threads.runtime()?;
        let done = Arc::<Done>::default();
        let layer = LayeredSessionLayer::new(sessions()?);
        let cookie = runtime.block_on(begin(&layer))?;
        for _ in 0..watchers {
            // Each task has its own handle, as each page's socket has.
            let mut values = runtime.block_on(open(&layer, &cookie))?.watch::<Count>();
            let done = Arc::clone(&done);
            runtime.spawn(async move {
                while let Some(value) = values.next().await {
                    black_box(value);
                    done.see(watchers);
                }
            });
        }
        let writer = Writer::Ours(runtime.block_on(open(&layer, &cookie))?);
        Ok(Self { runtime, writer, watchers, done }.settled())
    }

    fn bare(watchers: usize, threads: Threads) -> Result<Self, BoxError> {
        let runtime = threads.runtime()?;
        let done = Arc::<Done>::default();
        let (sender, receiver) = watch::channel(0);
        for _ in 0..watchers {
            let (mut values, done) = (receiver.clone(), Arc::clone(&done));
            values.mark_changed();
            runtime.spawn(async move {
                while values.changed().await.is_ok() {
                    black_box(*values.borrow_and_update());
                    done.see(watchers);
                }
            });
        }
        Ok(Self { runtime, writer: Writer::Bare(sender), watchers, done }.settled())
    }

    /// Waits until all watchers have seen the first value and wait for the next.
    fn settled(self) -> Self {
        self.runtime.block_on(self.done.all.notified());
        self
    }

    /// Returns the microseconds from a write until the last watcher has seen the value.
    fn deliver(&self, value: i64) -> f64 {
        self.done.seen.store(0, Ordering::Release);
        let time = self.runtime.block_on(async {
            let start = Instant::now();
            self.writer.write(value).await;
            self.done.all.notified().await;
            start.elapsed()
        });
        // The last watcher may still be awake: the next write would then coalesce and cost less.
        std::thread::sleep(Duration::from_micros(20 + self.watchers as u64 / 100));
        time.as_nanos() as f64 / 1e3
    }
}

/// The threads of the watchers.
#[derive(Clone, Copy)]
enum Threads {
    /// The writer's own thread. The figure contains no wake-ups between threads.
    Same,
    /// Two other threads.
    Others,
}

impl std::fmt::Display for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Same => "the writer's thread",
            Self::Others => "two other threads",
        })
    }
}

impl Threads {
    fn runtime(self) -> std::io::Result<Runtime> {
        match self {
            Self::Same => Builder::new_current_thread().enable_time().build(),
            Self::Others => Builder::new_multi_thread().worker_threads(2).enable_time().build(),
        }
    }
}

/// Returns the bytes of a watcher with everything allocated because of the watcher, over `owners` sessions.
fn ours_in_memory(owners: usize) -> Result<f64, BoxError> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let _guard = runtime.enter();
    let layer = LayeredSessionLayer::new(sessions()?);
    let mut handles = Vec::with_capacity(owners);
    for _ in 0..owners {
        let cookie = runtime.block_on(begin(&layer))?;
        handles.push(runtime.block_on(open(&layer, &cookie))?);
    }
    let mut watches: Vec<Watch<Count>> = Vec::with_capacity(owners);
    let used = measure(|| {
        watches.extend(handles.iter().map(|handle| {
            let mut values = handle.watch::<Count>();
            assert!(values.next().now_or_never().is_some());
            assert!(values.next().now_or_never().is_none());
            values
        }));
    });
    Ok(used.bytes_current as f64 / owners as f64 + size_of::<Watch<Count>>() as f64)
}

fn bare_in_memory(owners: usize) -> Result<f64, BoxError> {
    let mut channels = Vec::with_capacity(owners);
    let used = measure(|| {
        channels.extend((0..owners).map(|_| {
            let (sender, mut receiver) = watch::channel(0i64);
            let mut waiting = Box::pin(async move { while receiver.changed().await.is_ok() {} });
            assert!(waiting.as_mut().now_or_never().is_none());
            (sender, waiting)
        }));
    });
    Ok(used.bytes_current as f64 / owners as f64 + size_of::<watch::Sender<i64>>() as f64)
}

/// Returns the nanoseconds in which a further watch of a handle registers and returns its first value.
fn registration_beside(others: usize) -> Result<f64, BoxError> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let _guard = runtime.enter();
    let layer = LayeredSessionLayer::new(sessions()?);
    let cookie = runtime.block_on(begin(&layer))?;
    let handle = runtime.block_on(open(&layer, &cookie))?;
    let register = || {
        let mut values = handle.watch::<Count>();
        assert!(values.next().now_or_never().is_some());
        values
    };
    let watches: Vec<_> = (0..others).map(|_| register()).collect();
    let timed = |_| {
        let start = Instant::now();
        let more = register();
        let time = start.elapsed().as_nanos() as f64;
        drop(more);
        time
    };
    let times = (0..1_000).map(timed).collect();
    drop(watches);
    Ok(median(times))
}

#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Gone,
    /// A watcher that has seen the first value and never polls again.
    Stalled,
}

/// The cost of many writes in sequence.
struct Writes {
    /// Microseconds of one write.
    time: f64,
    /// Bytes allocated after all writes, less the bytes allocated before.
    left: f64,
}

impl Writes {
    fn beside(reader: Reader, writes: usize) -> Result<Self, BoxError> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let layer = LayeredSessionLayer::new(sessions()?);
        let cookie = runtime.block_on(begin(&layer))?;
        let writer = runtime.block_on(open(&layer, &cookie))?;
        let mut watch = runtime.block_on(open(&layer, &cookie))?.watch::<Count>();
        let _guard = runtime.enter();
        match reader {
            Reader::Gone => drop(watch),
            Reader::Stalled => while watch.next().now_or_never().is_some() {},
        }
        let mut times = Vec::with_capacity(writes);
        let used = measure(|| {
            for value in 0..writes as i64 {
                let start = Instant::now();
                runtime.block_on(writer.set(Count(value))).expect("a write");
                times.push(start.elapsed().as_nanos() as f64 / 1e3);
            }
        });
        Ok(Self { time: median(times), left: used.bytes_current as f64 })
    }
}

fn sessions() -> Result<Sessions, BoxError> {
    let chain = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(4 << 30).build())
        .tier(CookieTier::sealed(KeyRing::generate()?))
        .tier(DefaultTier::new());
    Ok(chain.value::<Count>().build()?)
}

/// Makes a session, and returns the `Cookie` header of its browser.
async fn begin(layer: &LayeredSessionLayer) -> Result<HeaderMap, BoxError> {
    let service = service_fn(async |request: Request<()>| {
        Session::load(request.extensions()).await?.set(Count(0)).await?;
        Ok::<_, BoxError>(Response::new(()))
    });
    let response = layer.layer(service).oneshot(Request::new(())).await?;
    let set = set_cookies(response.headers());
    let cookie = set.first().ok_or("a first write sends the cookie")?;
    Ok(HeaderMap::from_iter([(header::COOKIE, cookie.stripped().to_string().parse()?)]))
}

/// Returns a new handle of the cookie's session.
async fn open(layer: &LayeredSessionLayer, cookie: &HeaderMap) -> Result<Session, BoxError> {
    let mut request = Request::new(());
    request.headers_mut().clone_from(cookie);
    let service = service_fn(async |request: Request<()>| Session::load(request.extensions()).await.map(Response::new));
    Ok(layer.layer(service).oneshot(request).await?.into_body())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
