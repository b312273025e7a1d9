//! Parent side: blocks in random order, slots in fresh processes, budget and stopping, state of the machine.
