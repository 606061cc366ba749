package health_test

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if the tests leave a goroutine of this package behind.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // of the examples
	code := m.Run()
	if left := leaked(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of the goroutines of this package that have not ended after some time.
func leaked() string {
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		left = nil
		for stack := range strings.SplitSeq(allStacks(), "\n\n") {
			if strings.Contains(stack, "stickylb/health.") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

func allStacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
