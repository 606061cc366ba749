// Package peertest has no code to import. Its tests hold sticky sessions against the programs that
// matter: HAProxy and nginx, which must be able to share sessions with a Proxy or hand them over
// without losing one, and a browser, whose cookie store decides what any of this is worth. It is a
// module of its own because it needs a browser's driver.
//
// They hold the checks of package health against nginx with HTTP/2, Redis, MariaDB and a mail
// server's greeting.
//
// They hold package stream against real servers and clients too: Redis and PostgreSQL, while
// targets are drained and killed.
//
// The exchanges (exchanges_*_test.go) are what hostile, unlucky and honest clients send over one
// connection, octet by octet or frame by frame, to backends that follow a script. TestExchanges
// plays them through a Proxy, over its own transport and over http.Transport, and compares what
// comes of them with what a bare httputil.ReverseProxy, HAProxy and nginx make of them, as
// testdata/exchanges.json records it and TestExchanges_Peers checks it. Every difference stands in
// exchange_differences_test.go with its reason. FuzzExchange mutates them.
//
// A test whose program is not installed is skipped, except where the environment has CI set: there
// it fails.
package peertest
