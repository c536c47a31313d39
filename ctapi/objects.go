package ctapi

import (
	"slices"
	"time"
)

// Tags of data objects in commands.
const (
	tagTimeout  = 0x80 // 1 byte, s
	tagText     = 0x50
	tagCommand  = 0x52 // command to perform
	tagLengths  = 0x51 // 2 bytes: shortest and longest PIN
	tagIndexes  = 0x53 // 1 to 3 message indexes
	tagMessages = 0x54 // 1 byte: how many messages
)

// objects are the data objects of a command.
type objects struct {
	timeout  time.Duration // 0: none given
	text     []string
	command  []byte
	lengths  []byte
	indexes  []byte
	messages []byte
}

// parseObjects reads a data field. A single byte is a time in seconds. Anything longer is
// data objects with lengths of one byte. allowed lists the tags that the command accepts.
func parseObjects(data []byte, allowed ...byte) (o objects, code sw) {
	if len(data) == 1 {
		o.timeout = time.Duration(data[0]) * time.Second
		return o, swOK
	}
	for len(data) > 0 {
		if len(data) < 2 || data[1] >= 0x80 || len(data) < 2+int(data[1]) {
			return o, swLength
		}
		tag, value := data[0], data[2:2+int(data[1])]
		data = data[2+int(data[1]):]
		if !slices.Contains(allowed, tag) {
			return o, swTLV
		}
		fits := true
		switch tag {
		case tagTimeout:
			if fits = len(value) == 1; fits {
				o.timeout = time.Duration(value[0]) * time.Second
			}
		case tagText:
			o.text = append(o.text, string(value))
		case tagCommand:
			o.command = value
		case tagLengths:
			fits = len(value) == 2
			o.lengths = value
		case tagIndexes:
			fits = len(value) >= 1 && len(value) <= 3
			o.indexes = value
		case tagMessages:
			fits = len(value) == 1
			o.messages = value
		}
		if !fits {
			return o, swLength
		}
	}
	return o, swOK
}
