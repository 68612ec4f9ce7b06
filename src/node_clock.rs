//! Node time, by which this process lives, and the authority over the versions that it gives.
//!
//! Node time is the wall clock's time, except that a step back of the wall clock does not move it: the monotonic clock then
//! carries it on, ahead of the wall clock by its *lead*. A step forward moves it as far as the wall clock has come.
//!
//! Tokens, versions and stores hold times of the wall clock. Here, and nowhere else, the two are converted.

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

/// The least difference of the two clocks that counts as a step: readings of a machine that stands still between them
/// differ too.
const STEP: u64 = 1000;

/// Steps back that are remembered. Beyond, the oldest goes.
const STEPS: usize = 16;

#[derive(Debug)]
pub(crate) struct NodeClock {
    pub(crate) clock: Arc<dyn Clock>,
    /// Node time at the beginning of the monotonic clock, in milliseconds. It only rises.
    base: AtomicU64,
    /// By how many milliseconds node time is ahead of the wall clock.
    lead: AtomicU64,
    /// There was a step back.
    stepped: AtomicBool,
    steps: Mutex<Vec<Step>>,
    /// The newest version that was given, or seen within the allowed skew.
    newest: AtomicU64,
    /// How far ahead of this node's clock the clock of another node may be.
    pub(crate) max_skew: Duration,
}

/// A step back of the wall clock.
#[derive(Debug)]
struct Step {
    /// What the wall clock showed before.
    before: Wall,
    /// The lead until then.
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

    /// The node time now. No call returns an earlier time than a call that has returned before.
    pub(crate) fn now(&self) -> Millis {
        let (now, wall) = self.read();
        if now.0.saturating_sub(wall.0).abs_diff(self.lead.load(Ordering::Relaxed)) >= STEP {
            self.note_step();
        }
        now
    }

    fn read(&self) -> (Millis, Wall) {
        // The wall clock first: a pause between the two readings then moves no base.
        let wall = Wall::of(self.clock.now());
        let passed = whole_millis(self.clock.monotonic());
        let base = wall.0.saturating_sub(passed);
        let mut known = self.base.load(Ordering::Relaxed);
        if known < base {
            known = self.base.fetch_max(base, Ordering::Relaxed).max(base);
        }
        (Millis(known.saturating_add(passed).min(Millis::MAX.0)), wall)
    }

    /// Notes that somebody has set the wall clock.
    #[cold]
    fn note_step(&self) {
        // Read again: a pause between the two readings looks like a step.
        let (now, wall) = self.read();
        let led = now.0.saturating_sub(wall.0);
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let lead = self.lead.load(Ordering::Relaxed);
        if led.abs_diff(lead) < STEP {
            return;
        }
        if led > lead {
            tracing::warn!(milliseconds = led - lead, "the system's clock was set back");
            match led - lead <= whole_millis(self.max_skew) {
                true => steps.push(Step { before: Wall(now.0.saturating_sub(lead)), lead }),
                // So far ahead the clock was wrong before: what was sealed meanwhile elsewhere counts.
                false => steps.clear(),
            }
            if steps.len() > STEPS {
                steps.remove(0);
            }
            self.stepped.store(true, Ordering::Relaxed);
        }
        self.lead.store(led, Ordering::Relaxed);
    }

    /// The wall clock's time of a moment of node time, by the lead of now.
    pub(crate) fn wall(&self, at: Millis) -> Wall {
        Wall(at.0.saturating_sub(self.lead.load(Ordering::Relaxed)))
    }

    /// The node time of what happened when the wall clock showed a time.
    pub(crate) fn node(&self, at: Wall) -> Millis {
        Millis(at.0.saturating_add(self.lead_at(at)).min(Millis::MAX.0))
    }

    /// The lead when the wall clock showed a time, for the first time: after a step back within the allowed skew it shows
    /// times again, and a token of this node that was sealed before the step must not live longer by the step.
    pub(crate) fn lead_at(&self, at: Wall) -> u64 {
        let lead = self.lead.load(Ordering::Relaxed);
        if !self.stepped.load(Ordering::Relaxed) {
            return lead;
        }
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().find(|step| at <= step.before).map_or(lead, |step| step.lead)
    }

    /// When a version was written, in node time; never later than `now`, so that a writer whose clock is ahead makes
    /// nothing live longer.
    pub(crate) fn written(&self, version: Version, now: Millis) -> Millis {
        self.node(version.wall()).min(now)
    }

    /// The version of a fresh write: of now, above all that this process has given or seen, and above `known`.
    pub(crate) fn fresh(&self, now: Millis, known: Version) -> Version {
        let (first, bound) = (Version::at(self.wall(now)), self.bound(now));
        let mut fresh = first;
        let _ = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, |newest| {
            let newest = Version::from_u64(newest);
            // Ahead of the bound it was given by a clock that was wrong then: it begins anew.
            let mine = if newest > bound { first } else { first.max(newest.next()) };
            fresh = mine.max(known.next());
            Some(if fresh > bound { mine } else { fresh }.as_u64())
        });
        fresh
    }

    /// Notes a genuine version from elsewhere: what is written from now on is above it. One that is further ahead than the
    /// allowed skew lifts nothing. Says whether it is.
    pub(crate) fn note_version(&self, version: Version, now: Millis) -> bool {
        let ahead = version > self.bound(now);
        if !ahead && version.as_u64() > self.newest.load(Ordering::Relaxed) {
            self.newest.fetch_max(version.as_u64(), Ordering::AcqRel);
        }
        ahead
    }

    /// The last version that is not further ahead than the allowed skew.
    pub(crate) fn bound(&self, now: Millis) -> Version {
        self.bound_at(self.wall(now))
    }

    fn bound_at(&self, wall: Wall) -> Version {
        Version::last_at(wall.after(self.max_skew))
    }

    /// A version as it is believed of something that was sealed at a time: one from further ahead than the allowed skew
    /// counts as of then.
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
    fn versions_up_to_the_skew_are_believed() {
        let (_, time) = time();
        let now = time.now();
        let (sealed, bound) = (time.wall(now), time.bound(now));
        assert_eq!(time.believed(bound, sealed), bound);
        assert_eq!(time.believed(bound.next(), sealed), Version::last_at(sealed));
        assert!(time.note_version(bound.next(), now), "ahead");
        assert!(time.fresh(now, Version::ZERO) < bound, "lifted by nothing yet");
        assert!(!time.note_version(bound, now));
        assert!(time.fresh(now, Version::ZERO) > bound);
    }

    #[test]
    fn fresh_versions_are_remembered_up_to_the_skew() {
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
    fn times_before_a_step_have_the_earlier_lead() {
        let (clock, time) = time();
        let before = time.wall(time.now());
        step_back(&clock, &time, Duration::from_secs(600));
        let later = Wall(before.0 + 1);
        assert_eq!((time.lead_at(before), time.lead_at(later)), (0, 600_000));
    }

    #[test]
    fn step_beyond_the_skew_forgets_earlier_steps() {
        let (clock, time) = time();
        let before = time.wall(time.now());
        step_back(&clock, &time, Duration::from_secs(600));
        step_back(&clock, &time, 2 * SKEW);
        assert_eq!(time.lead_at(before), 7_800_000);
    }

    #[test]
    fn oldest_of_many_steps_is_forgotten() {
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
