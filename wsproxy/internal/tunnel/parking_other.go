//go:build !linux

package tunnel

import "io"

// parking parks nothing on systems without epoll.
type parking struct{}

func (*parking) adopt(io.ReadWriteCloser, *direction) parker { return nil }

func (*parking) wait() {}

// unsent and isDead return 0 and false, because these systems cannot tell.
func unsent(io.Closer) int { return 0 }

func isDead(io.Closer) bool { return false }
