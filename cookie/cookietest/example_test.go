package cookietest_test

import (
	"fmt"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/cookie/cookietest"
)

// In a test, hand a non-nil error to t.Fatal.
func ExampleTestCodec() {
	codec, _ := cookie.NewSealed(cookie.SealedOptions{Scope: "shop", Keys: [][]byte{cookie.NewKey()}})
	fmt.Println(cookietest.TestCodec(codec, "app-1", "app-2"))
	// Output: <nil>
}
