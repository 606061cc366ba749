// Package childprocess keeps the processes that the example programs start from outliving them.
package childprocess
