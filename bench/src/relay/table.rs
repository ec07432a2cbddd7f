//! Who subscribed to what, by exact name and id.

use std::collections::HashMap;
use std::rc::Rc;

use slim_proto::name::RouteName;
use slim_proto::route_header::Fanout;

use super::outbox::Peer;

#[derive(Default)]
pub struct Table {
    members: HashMap<RouteName, Vec<Rc<Peer>>, ahash::RandomState>,
}

impl Table {
    /// Repeating it changes nothing.
    pub fn subscribe(&mut self, name: RouteName, peer: &Rc<Peer>) {
        let members = self.members.entry(name).or_default();
        if !members.iter().any(|member| Rc::ptr_eq(member, peer)) {
            members.push(peer.clone());
        }
    }

    pub fn unsubscribe(&mut self, name: &RouteName, peer: &Rc<Peer>) {
        if let Some(members) = self.members.get_mut(name) {
            members.retain(|member| !Rc::ptr_eq(member, peer));
            if members.is_empty() {
                self.members.remove(name);
            }
        }
    }

    /// The receivers of a publish; its own publisher is none of them.
    pub fn receivers<'a>(
        &'a self,
        name: &RouteName,
        fanout: Fanout,
        publisher: &'a Rc<Peer>,
    ) -> impl Iterator<Item = &'a Rc<Peer>> {
        let limit = match fanout {
            Fanout::One => 1,
            Fanout::All => usize::MAX,
        };
        self.members
            .get(name)
            .into_iter()
            .flatten()
            .filter(move |member| !Rc::ptr_eq(member, publisher))
            .take(limit)
    }
}
