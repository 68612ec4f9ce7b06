//! [`NodeClock`]: node time, and the versions of this process's writes.
//!
//! Node time follows the wall clock, except for a step back: the monotonic clock then continues node time, ahead of the
//! wall clock by the *lead*. A step forward moves node time up to the wall clock's time.
//!
//! Tokens, versions and stores hold times of the wall clock. Only this module converts between the two.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    time::{Clock, Millis, Wall, whole_millis},
    version::Version,
};

/// The smallest difference of the two clocks that counts as a step, in milliseconds. A pause of the machine between the
/// two readings makes a difference too.
const STEP: u64 = 1000;

/// The maximum number of remembered steps back. A further step drops the oldest step.
const STEPS: usize = 16;

#[derive(Debug)]
pub(crate) struct NodeClock {
    pub(crate) clock: Arc<dyn Clock>,
    /// The node time at the zero of the monotonic clock, in milliseconds. The base only rises.
    base: AtomicU64,
    /// The milliseconds by which node time is ahead of the wall clock.
    lead: AtomicU64,
    /// Whether the wall clock has ever stepped back.
    stepped: AtomicBool,
    steps: Mutex<Vec<Step>>,
    /// The newest version that this process has given, or has seen within the allowed skew.
    newest: AtomicU64,
    /// The maximum by which the clock of another node may be ahead of this node's clock.
    pub(crate) max_skew: Duration,
}

/// A step back of the wall clock.
#[derive(Debug)]
struct Step {
    /// The time of the wall clock before the step.
    before: Wall,
    /// The lead before the step.
    lead: u64,
}

impl NodeClock {
    pub(crate) fn new(clock: Arc<dyn Clock>, max_skew: Duration) -> Self {
        let time = Self {
            clock,
            base: AtomicU64::new(0),
            lead: AtomicU64::new(0),
            stepped: AtomicBool::new(false),
            steps: Mutex::default(),
            newest: AtomicU64::new(0),
            max_skew,
        };
        time.now();
        time
    }

    /// Returns the present node time. No call returns an earlier time than a call that has returned before.
    pub(crate) fn now(&self) -> Millis {
        let (now, wall) = self.read();
        if now.0.saturating_sub(wall.0).abs_diff(self.lead.load(Ordering::Relaxed)) >= STEP {
            self.note_step();
        }
        now
    }

    fn read(&self) -> (Millis, Wall) {
        // The wall clock first: a pause between the two readings then lowers the computed base, which only rises.
        let wall = Wall::of(self.clock.now());
        let passed = whole_millis(self.clock.monotonic());
        let base = wall.0.saturating_sub(passed);
        let mut known = self.base.load(Ordering::Relaxed);
        if known < base {
            known = self.base.fetch_max(base, Ordering::Relaxed).max(base);
        }
        (Millis(known.saturating_add(passed).min(Millis::MAX.0)), wall)
    }

    /// Notes a step of the wall clock, and the new lead.
    #[cold]
    fn note_step(&self) {
        // Reads the clocks again: a pause between the two readings looks like a step.
        let (now, wall) = self.read();
        let led = now.0.saturating_sub(wall.0);
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let lead = self.lead.load(Ordering::Relaxed);
        if led.abs_diff(lead) < STEP {
            return;
        }
        if led > lead {
            tracing::warn!(
                milliseconds = led - lead,
                "the system's clock was set back: the node's own time goes on without a step back"
            );
            match led - lead <= whole_millis(self.max_skew) {
                true => steps.push(Step { before: Wall(now.0.saturating_sub(lead)), lead }),
                // The clock was ahead by more than the skew, so times before the step mean nothing: forget the steps,
                // and convert the times of other nodes' tokens by the present lead.
                false => steps.clear(),
            }
            if steps.len() > STEPS {
                steps.remove(0);
            }
            self.stepped.store(true, Ordering::Relaxed);
        }
        self.lead.store(led, Ordering::Relaxed);
    }

    /// Converts node time to the wall clock's time, by the present lead.
    pub(crate) fn wall(&self, at: Millis) -> Wall {
        Wall(at.0.saturating_sub(self.lead.load(Ordering::Relaxed)))
    }

    /// Converts a time of the wall clock to node time, by the lead at that time.
    pub(crate) fn node(&self, at: Wall) -> Millis {
        Millis(at.0.saturating_add(self.lead_at(at)).min(Millis::MAX.0))
    }

    /// Returns the lead when the wall clock showed a time for the first time. After a step back within the allowed skew
    /// the wall clock shows some times again; the earlier lead counts, so that a token that this node sealed before the
    /// step does not live longer by the step.
    pub(crate) fn lead_at(&self, at: Wall) -> u64 {
        let lead = self.lead.load(Ordering::Relaxed);
        if !self.stepped.load(Ordering::Relaxed) {
            return lead;
        }
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().find(|step| at <= step.before).map_or(lead, |step| step.lead)
    }

    /// Returns the node time of a version's write, at most `now`: no value lives longer because its writer's clock is
    /// ahead.
    pub(crate) fn written(&self, version: Version, now: Millis) -> Millis {
        self.node(version.wall()).min(now)
    }

    /// Returns the version of a fresh write: at `now` or later, above the newest version that this process has given or
    /// noted up to [`bound`](Self::bound), and above `known`.
    pub(crate) fn fresh(&self, now: Millis, known: Version) -> Version {
        let (first, bound) = (Version::at(self.wall(now)), self.bound(now));
        let mut fresh = first;
        let _ = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, |newest| {
            let newest = Version::from_u64(newest);
            // A wrong clock gave a `newest` above the bound: the versions begin again at `now`.
            let mine = if newest > bound { first } else { first.max(newest.next()) };
            fresh = mine.max(known.next());
            Some(if fresh > bound { mine } else { fresh }.as_u64())
        });
        fresh
    }

    /// Notes an authentic version of another tier or node, so that later fresh versions are above the noted version. A
    /// version further ahead than the allowed skew is not noted. Returns whether the version is so far ahead.
    pub(crate) fn note_version(&self, version: Version, now: Millis) -> bool {
        let ahead = version > self.bound(now);
        if !ahead && version.as_u64() > self.newest.load(Ordering::Relaxed) {
            self.newest.fetch_max(version.as_u64(), Ordering::AcqRel);
        }
        ahead
    }

    /// Returns the last version that is not further ahead than the allowed skew.
    pub(crate) fn bound(&self, now: Millis) -> Version {
        self.bound_at(self.wall(now))
    }

    fn bound_at(&self, wall: Wall) -> Version {
        Version::last_at(wall.after(self.max_skew))
    }

    /// Returns the version to believe for a version in a token that was sealed at `sealed`. A version further ahead of
    /// `sealed` than the allowed skew counts as written at `sealed`.
    pub(crate) fn believed(&self, version: Version, sealed: Wall) -> Version {
        if version > self.bound_at(sealed) { Version::last_at(sealed) } else { version }
    }
}

#[cfg(feature = "testing")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    const SKEW: Duration = Duration::from_secs(3600);

    fn time() -> (ManualClock, NodeClock) {
        let clock = ManualClock::new();
        let time = NodeClock::new(Arc::new(clock.clone()), SKEW);
        (clock, time)
    }

    /// Sets the wall clock back, and lets the node notice.
    fn step_back(clock: &ManualClock, time: &NodeClock, span: Duration) {
        clock.set(clock.now() - span);
        time.now();
    }

    #[test]
    fn versions_within_skew_are_believed() {
        let (_, time) = time();
        let now = time.now();
        let (sealed, bound) = (time.wall(now), time.bound(now));
        assert_eq!(time.believed(bound, sealed), bound);
        assert_eq!(time.believed(bound.next(), sealed), Version::last_at(sealed));
        assert!(time.note_version(bound.next(), now), "too far ahead");
        assert!(time.fresh(now, Version::ZERO) < bound, "a version too far ahead lifts no fresh version");
        assert!(!time.note_version(bound, now));
        assert!(time.fresh(now, Version::ZERO) > bound);
    }

    #[test]
    fn fresh_versions_within_skew_are_remembered() {
        let (_, time) = time();
        let now = time.now();
        let bound = time.bound(now);
        let given = time.fresh(now, Version::ZERO);
        assert_eq!(time.fresh(now, bound), bound.next());
        let next = time.fresh(now, Version::ZERO);
        assert!(given < next && next < bound, "one owner's version ahead lifts no other owner's");
        let before = Version::from_u64(bound.as_u64() - 1);
        assert_eq!(time.fresh(now, before), bound);
        assert!(time.fresh(now, Version::ZERO) > bound);
    }

    #[test]
    fn clock_step_changes_no_lead_of_earlier_times() {
        let (clock, time) = time();
        let before = time.wall(time.now());
        step_back(&clock, &time, Duration::from_secs(600));
        let later = Wall(before.0 + 1);
        assert_eq!((time.lead_at(before), time.lead_at(later)), (0, 600_000));
    }

    #[test]
    fn large_step_forgets_earlier_steps() {
        let (clock, time) = time();
        let before = time.wall(time.now());
        step_back(&clock, &time, Duration::from_secs(600));
        step_back(&clock, &time, 2 * SKEW);
        assert_eq!(time.lead_at(before), 7_800_000);
    }

    #[test]
    fn oldest_step_is_forgotten_first() {
        let (clock, time) = time();
        let long_ago = Wall(0);
        for _ in 0..STEPS {
            step_back(&clock, &time, Duration::from_secs(2));
        }
        assert_eq!(time.lead_at(long_ago), 0);
        step_back(&clock, &time, Duration::from_secs(2));
        assert_eq!(time.lead_at(long_ago), 2_000);
    }
}
