use std::num::NonZeroU32;

use queue_core::{ClaimRequest, JobFilter, Order, QueueName, Queues};

use super::{Settings, Worker};

impl Worker {
    /// The requests that together ask for `limit` jobs: one for each order among the queues.
    pub(super) fn requests(
        &self,
        queues: Option<&[QueueName]>,
        order: Option<Order>,
        filter: Option<&JobFilter>,
        limit: NonZeroU32,
    ) -> Vec<ClaimRequest> {
        let groups = self.settings.groups(queues, order);
        let request = |(queues, order)| {
            let Settings { holder, lease, .. } = &self.settings;
            let mut request = ClaimRequest::new(queues, holder.clone(), limit, *lease);
            request.kinds = self.kinds();
            request.order = if broken!(OrderSwapped) { reversed(order) } else { order };
            request.filter = filter.filter(|_| !broken!(FiltersAreIgnored)).cloned();
            request
        };
        groups.into_iter().map(request).collect()
    }
}

impl Settings {
    /// The queues by their order, that of the worker first. An order of the call is over all.
    fn groups(&self, queues: Option<&[QueueName]>, order: Option<Order>) -> Vec<(Queues, Order)> {
        let Some(queues) = queues.or(self.queues.as_deref()) else {
            return vec![(Queues::All, order.unwrap_or(self.order))];
        };
        if let Some(order) = order
            && !broken!(QueueOrderBeforeCall)
        {
            return vec![(Queues::Only(queues.to_vec()), order)];
        }
        let order_of = |queue: &QueueName| {
            let own = self.orders.iter().rev().find(|(name, _)| name == queue);
            let global = if broken!(GlobalOrderIsIgnored) { Order::Fifo } else { self.order };
            own.map_or(global, |(_, order)| *order)
        };
        let other = reversed(self.order);
        [self.order, other]
            .into_iter()
            .map(|order| {
                let named = queues.iter().filter(|queue| order_of(queue) == order);
                (named.cloned().collect::<Vec<_>>(), order)
            })
            .filter(|(queues, _)| !queues.is_empty())
            .map(|(queues, order)| (Queues::Only(queues), order))
            .collect()
    }
}

const fn reversed(order: Order) -> Order {
    match order {
        Order::Fifo => Order::Lifo,
        Order::Lifo => Order::Fifo,
    }
}
