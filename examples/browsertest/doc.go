// Package browsertest opens the pages of the demo and the console of examples/elb in a headless
// Chromium, and presses their buttons.
// It also starts Chromium for the tests of other modules. It is a module of its own, so that no
// other module requires the browser's driver.
package browsertest
