//! The slots of a replica: how many runs it has at the same time. Adopted runs take theirs whether there is room or not,
//! since they are running; then nothing is claimed until enough of them have ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    taken: Mutex<usize>,
    freed: Notify,
}

/// One taken slot; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    /// So many, all free.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::new(0), freed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // Nothing that holds this lock can panic half-way through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one, free or not.
    pub(super) fn take(self: &Arc<Self>) -> Slot {
        *self.lock() += 1;
        Slot(self.clone())
    }

    /// Waits until one is free, then takes that one and as many more as are free at the moment, at most `most` in all:
    /// what is freed together is claimed for together.
    pub(super) async fn free(self: &Arc<Self>, most: usize) -> Vec<Slot> {
        loop {
            // Armed before the look, so that no slot is freed unnoticed in between.
            let freed = self.freed.notified();
            {
                let mut taken = self.lock();
                let free = self.most.saturating_sub(*taken).min(most);
                if free > 0 {
                    *taken += free;
                    return (0..free).map(|_| Slot(self.clone())).collect();
                }
            }
            freed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_full(slots: &Arc<Slots>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), slots.free(1)).await.is_err()
    }

    #[tokio::test]
    async fn free_slots_are_taken_together_and_no_more_than_there_are() {
        let slots = Slots::new(3);
        let first = slots.free(2).await;
        assert_eq!((first.len(), slots.free(10).await.len()), (2, 1), "the second lot is freed at once");
        let all = slots.free(10).await;
        assert_eq!(all.len(), 1);
        assert!(is_full(&slots).await);
        drop(all);
        assert_eq!(slots.free(10).await.len(), 1);
    }

    #[tokio::test]
    async fn what_is_adopted_beyond_the_room_is_worked_off_before_anything_is_claimed() {
        let slots = Slots::new(1);
        let mut adopted = vec![slots.take(), slots.take(), slots.take()];
        while adopted.len() > 1 {
            adopted.pop();
            assert!(is_full(&slots).await, "{} still run", adopted.len());
        }
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.free(5).await.len() }
        });
        adopted.pop();
        assert_eq!(waiting.await.unwrap(), 1);
    }
}
