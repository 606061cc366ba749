//go:build !unix

package tunnel

import "io"

// newReader returns the reader for conn.
func newReader(conn io.ReadWriteCloser) reader { return &sizedReader{r: conn} }
