// Package clienttest has no code to import. Its tests hold a Proxy against the clients that people
// use, with real servers behind it: a browser, the ws package of Node.js, coder/websocket with
// compression and grpc-go; curl, ab and others whose uploads are answered early; rude clients
// beside honest ones; and against backends that are killed, frozen, restarted and drained behind
// two balancers while clients hold sessions. It is a module of its own because of what these
// clients require. The tests that find more the longer they last are long in .ci/soak.
//
// They hold the checks of package health against servers that speak HTTP/2 alone, those of Go and
// Node.js, and against grpc-go's health service, whose word decides where calls go.
//
// They also hold sessions with the cookie stores that people use: those of Chromium, curl, Java,
// Python, Node.js and Go.
//
// A test whose program is not installed is skipped, except where the environment has CI set: there
// it fails. The ws and tough-cookie packages come from npm's registry, in the versions that
// testdata/node names.
package clienttest
