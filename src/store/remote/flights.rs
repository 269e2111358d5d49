//! One request at a time for each thing: who asks for what is being fetched waits for that answer. Whoever stops waiting
//! stops nobody else: if it was he who asked the engine, one of those who wait asks anew.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// What is under way, by what it is about.
pub(super) struct Flights<K, T> {
    /// Guards the cells; a cell is here while anybody waits for it.
    under_way: Mutex<HashMap<K, Arc<OnceCell<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// The answer to `ask`, or to the like of it that is under way.
    pub(super) async fn join(&self, key: K, ask: impl Future<Output = T>) -> T {
        let cell = Arc::clone(self.under_way.lock().entry(key.clone()).or_default());
        let seat = Seat { flights: self, key, cell };
        seat.cell.get_or_init(|| ask).await.clone()
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.under_way.lock().len()
    }
}

/// A place among those who wait; the last one who leaves takes the flight away.
struct Seat<'a, K: Eq + Hash + Clone, T: Clone> {
    flights: &'a Flights<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Eq + Hash + Clone, T: Clone> Drop for Seat<'_, K, T> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock();
        let is_ours = under_way.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // Two: the table's and our own. Answered: whoever comes now asks anew.
        if is_ours && (self.cell.initialized() || Arc::strong_count(&self.cell) == 2) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_thousand_who_ask_at_once_are_answered_by_one_request() {
        run(async {
            let flights = Arc::new(Flights::<u8, u32>::default());
            let asked = Arc::new(AtomicU32::new(0));
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..1000 {
                let (flights, asked) = (Arc::clone(&flights), Arc::clone(&asked));
                waiting.spawn(async move {
                    let ask = async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        asked.fetch_add(1, Ordering::SeqCst) + 1
                    };
                    flights.join(1, ask).await
                });
            }
            while let Some(answer) = waiting.join_next().await {
                assert_eq!(answer.unwrap(), 1);
            }
            assert_eq!((asked.load(Ordering::SeqCst), flights.count()), (1, 0));
        });
    }

    #[test]
    fn nobody_hangs_when_the_one_who_asked_is_cancelled() {
        run(async {
            let flights = Arc::new(Flights::<u8, u32>::default());
            let first = {
                let flights = Arc::clone(&flights);
                tokio::spawn(async move { flights.join(1, std::future::pending()).await })
            };
            tokio::task::yield_now().await;
            let others: Vec<_> = (0..10)
                .map(|number| {
                    let flights = Arc::clone(&flights);
                    tokio::spawn(async move { flights.join(1, async move { number }).await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(5)).await;
            first.abort();
            for other in others {
                let answer = tokio::time::timeout(Duration::from_secs(1), other).await.unwrap().unwrap();
                assert_eq!(answer, 0, "the first of those who waited asked for all");
            }
            assert_eq!(flights.count(), 0);
        });
    }
}
