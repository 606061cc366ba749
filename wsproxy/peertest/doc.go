// Package peertest has no code to import. Its tests hold sticky sessions against the programs that matter: HAProxy and
// nginx, which must be able to share sessions with a Proxy or hand them over without losing one, and a browser, whose
// cookie store decides what any of this is worth. It is a module of its own because it needs a browser's driver.
//
// They hold package stream against real servers and clients too: Redis and PostgreSQL, while targets are drained and
// killed.
//
// A test whose program is not installed is skipped, except where the environment has CI set: there it fails.
package peertest
