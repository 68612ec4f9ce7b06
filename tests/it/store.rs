//! A shared store behind the memory tier.
//!
//! - `answers`: lost records, clears, refusals, and writes under way
//! - `commits`: the calls that a store gets, and its refusals
//! - `moves`: a renewal or a sign-in on one node, and the writes and ends of another node
//! - `notices`: changes that other nodes tell of
//! - `outdated_writes`: a store that finds each write outdated
//! - `outages`: a store that is down
//! - `crossed_calls`: ends, renewals, clears and lost answers that the other node has not seen
//! - `deadlines`: a store that does not answer in time
//! - `debts`: what memory and cookies bring to a store that has lost commits
//! - `degraded`: memory and the cookie answer while the store does not
//! - `breaker`: a store that gives no answer to several calls in a row
//! - `end_all`: the end of all sessions of a user
//! - `eviction`: memory under pressure over a store
//! - `limits`: changes that a node learns of late or never
//! - `parallel_loads`: two loads of a request
//! - `shared_reads`: loads of the same owner, and of an owner that the store does not know
//! - `adoption`: a store that refuses the values that a sign-in adopts, or answers late
//! - `retention`: how long a record stays in the store
//! - `forgotten`: the erasure of a user's values
//! - `two_nodes`: ends, lifetimes and uses that a node has not seen, and nodes whose clocks differ
//! - `restored`: sessions that the store has lost, restored from cookies and memory
//! - `rewound`: a store that has lost commits, and gets them back from memory and cookies
//! - `revalidation`: how long memory answers without a read, and uses that the store is told of
//! - `warm_loads`: loads that memory answers, which cost the same as without a store

mod adoption;
mod answers;
mod breaker;
mod commits;
mod crossed_calls;
mod deadlines;
mod debts;
mod degraded;
mod end_all;
mod eviction;
mod forgotten;
mod limits;
mod moves;
mod notices;
mod outages;
mod outdated_writes;
mod parallel_loads;
mod restored;
mod retention;
mod revalidation;
mod rewound;
mod shared_reads;
mod two_nodes;
mod warm_loads;
