package wsproxy_test

import (
	"flag"
	"os"
	"testing"
)

// parallel is how many parallel tests run at the same time, unless the command line says: what they
// do most of the time is wait.
const parallel = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", parallel) // cannot fail
	}
	os.Exit(m.Run())
}
