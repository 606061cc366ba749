// Package balancer picks a target for a request and keeps count of what each target has to
// do: a pool of targets, their load and state, and the algorithms that choose.
//
// It opens no sockets, checks no health and knows no cookies: the server, the transport
// and their lifetimes stay yours.
package balancer
