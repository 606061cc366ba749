package tunnel

// Frames exports frames for the tests.
type Frames struct{ frames }

func (f *Frames) Advance(p []byte, one bool) int { return f.advance(p, one) }
func (f *Frames) PayloadLeft() int               { return f.payloadLeft() }
func (f *Frames) Skip(n int)                     { f.skip(n) }
func (f *Frames) Boundary() bool                 { return f.boundary() }
func (f *Frames) Closed() bool                   { return f.closed() }
func (f *Frames) CloseCode() uint16              { return f.closeCode() }

// NewPlainEngine returns an engine that parks nothing.
func NewPlainEngine() *Engine { return &Engine{plain: true} }

// NewCopyingEngine returns an engine that splices nothing.
func NewCopyingEngine() *Engine { return &Engine{copies: true} }
