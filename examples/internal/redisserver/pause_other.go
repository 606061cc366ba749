//go:build !unix

package redisserver

// Pause stops the process. This system cannot do that, so Pause skips the test.
func (s *Server) Pause() { s.t.Skip("no SIGSTOP on this system") }

// Resume lets the process continue, after Pause.
func (s *Server) Resume() {}
