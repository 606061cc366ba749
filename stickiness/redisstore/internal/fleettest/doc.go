// Package fleettest has no code to import. Its tests run three balancers, each a process of its
// own, whose learned sessions are in one Redis: a single server, a Cluster or Sentinel. While
// clients use their sessions through all balancers, processes are killed and frozen, Redis changes
// roles, slots and endpoints, and the network is cut.
//
// A session is lost if its requests do not reach the backend that has it, when all is well again.
// The tests log how many that are, and require 0 wherever Redis, or a balancer's memory, still has
// the session. There are 90 clients, or 300 where the environment has SOAK, such as
// SOAK=60s, which also makes the faults last longer.
package fleettest
