// Package commandline parses the flags of the example programs.
package commandline

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Parse parses args, which must be flags only. Its error is one line. If args ask for help, Parse
// writes about and the list of flags to help, and returns [flag.ErrHelp].
func Parse(f *flag.FlagSet, args []string, help io.Writer, about string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(help)
		fmt.Fprint(help, about)
		f.PrintDefaults()
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return err
}
