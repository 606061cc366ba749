// Package browsertest opens the demo's page in a headless Chromium and clicks every button. It also
// starts the browser for the tests of other modules. It is a module of its own, so that the
// browser's driver is nobody's dependency.
package browsertest
