//! What must hold of all tables of a router when no notice is under way.

use super::{Count, Counts, Routes, ShardId, View, bits};

impl Routes {
    pub fn limit_copies(&mut self, copies_max: usize) {
        self.copies_max = copies_max;
    }

    /// Members, leaving ones included.
    pub fn members(&self) -> usize {
        let mut members = Vec::new();
        for entry in self.names.values() {
            entry.members.all(&mut members);
        }
        members.len()
    }
}

/// `tables`: every shard's, in order.
pub fn fault_when_settled(tables: &[&Routes]) -> Option<String> {
    tables.iter().find_map(|table| fault_of(table, tables))
}

fn fault_of(table: &Routes, tables: &[&Routes]) -> Option<String> {
    let shard = table.shard;
    let fault = |text: String| Some(format!("{shard:?}: {text}"));
    if !table.tickets.is_empty() || !table.changes.is_empty() || !table.waiting.is_empty() {
        return fault(format!(
            "{} tickets, {} changes, {} questions are open",
            table.tickets.len(),
            table.changes.len(),
            table.waiting.len()
        ));
    }
    let copies = table
        .names
        .values()
        .filter(|entry| matches!(entry.view, View::Known { .. }))
        .count();
    if copies > table.copies_max || copies != table.copies.len() {
        return fault(format!(
            "{copies} copies, {} in the clock, {} allowed",
            table.copies.len(),
            table.copies_max
        ));
    }
    for (name, entry) in &table.names {
        let owner = table.owner_of(name);
        let mut all = Vec::new();
        entry.members.all(&mut all);
        let live = entry.members.count();
        if all.len() != (live.direct + live.peer) as usize {
            return fault(format!("a member of {name:?} never finishes leaving"));
        }
        if entry.unsettled > 0 {
            return fault(format!(
                "{name:?} has {} unsettled changes",
                entry.unsettled
            ));
        }
        let elsewhere: Counts = tables
            .iter()
            .filter(|other| other.shard != shard)
            .filter_map(|other| {
                let count = other.names.get(name)?.members.count();
                (count != Count::default()).then_some((other.shard, count))
            })
            .collect();
        match &entry.view {
            View::Asked => return fault(format!("{name:?} was asked for and never answered")),
            View::Known { counts, .. } => {
                if *counts != elsewhere {
                    return fault(format!(
                        "its copy of {name:?} is {counts:?}, not {elsewhere:?}"
                    ));
                }
                if !is_holder(tables, owner, shard, name) {
                    return fault(format!("nobody will tell it of changes of {name:?}"));
                }
            }
            View::Unknown => {
                if all.is_empty() {
                    return fault(format!("its entry for {name:?} says nothing"));
                }
                if is_holder(tables, owner, shard, name) {
                    return fault(format!(
                        "{owner:?} believes that it keeps a copy of {name:?}"
                    ));
                }
            }
            View::Owned(directory) => {
                let counts = directory.as_ref().map(|directory| directory.counts.clone());
                let counts = counts.unwrap_or_default();
                if counts != elsewhere {
                    return fault(format!(
                        "it owns {name:?} with {counts:?}, not {elsewhere:?}"
                    ));
                }
                let holders = directory.as_ref().map_or(0, |directory| directory.holders);
                if all.is_empty() && counts.is_empty() && holders == 0 {
                    return fault(format!("its entry for {name:?} says nothing"));
                }
                let is_copy = |holder: ShardId| {
                    let entry = tables[usize::from(holder.0)].names.get(name);
                    entry.is_some_and(|entry| matches!(entry.view, View::Known { .. }))
                };
                if let Some(holder) = bits(holders).find(|holder| !is_copy(*holder)) {
                    return fault(format!(
                        "{holder:?} keeps no copy of {name:?} and is told of changes"
                    ));
                }
            }
        }
        if owner != shard
            && live != Count::default()
            && !tables[usize::from(owner.0)].names.contains_key(name)
        {
            return fault(format!("the owner of {name:?} does not know its members"));
        }
    }
    None
}

fn is_holder(
    tables: &[&Routes],
    owner: ShardId,
    shard: ShardId,
    name: &slim_proto::name::RouteName,
) -> bool {
    match tables[usize::from(owner.0)]
        .names
        .get(name)
        .map(|entry| &entry.view)
    {
        Some(View::Owned(Some(directory))) => directory.holders & shard.bit() != 0,
        _ => false,
    }
}
