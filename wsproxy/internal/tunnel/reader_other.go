//go:build !unix

package tunnel

import "io"

// newReader returns what reads from conn.
func newReader(conn io.ReadWriteCloser) reader { return &sizedReader{r: conn} }
