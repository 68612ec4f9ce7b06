//! Several nodes over one store, each test over each [engine](crate::engines): another node, a restarted node, a node
//! with an old record in memory, a store that has lost its records.
//!
//! | file | behaviour |
//! |---|---|
//! | `moves` | renewals and sign-ins, and the writes and ends of other nodes |
//! | `ends` | sign-outs and the end of all of a user's sessions, on every node |
//! | `lifetimes` | the spans for which a session lives and for which the store keeps a record |
//! | `writes` | contended, refused and lost writes, values of another build, clears |
//! | `loads` | the calls with which loads ask the store, and the age of memory's answers |

mod ends;
mod lifetimes;
mod loads;
mod moves;
mod writes;
