//go:build !linux

package tunnel

import "io"

// parking parks nothing on systems without epoll.
type parking struct{}

func (*parking) adopt(io.ReadWriteCloser, *direction) parker { return nil }

func (*parking) wait() {}

// unsent is not known there, and isDead neither.
func unsent(io.Closer) int { return 0 }

func isDead(io.Closer) bool { return false }
