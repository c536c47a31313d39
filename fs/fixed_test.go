package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// An attempt to change the tree gets the same errno for every directory and name.
func TestTreeIsFixed(t *testing.T) {
	var tree fuse.RawFileSystem = fixed{fuse.NewDefaultRawFileSystem()}
	for call, status := range map[string]fuse.Status{
		"create":  tree.Create(nil, &fuse.CreateIn{}, "a", &fuse.CreateOut{}),
		"tmpfile": tree.Tmpfile(nil, &fuse.CreateIn{}, &fuse.CreateOut{}),
		"mknod":   tree.Mknod(nil, &fuse.MknodIn{}, "a", &fuse.EntryOut{}),
		"mkdir":   tree.Mkdir(nil, &fuse.MkdirIn{}, "a", &fuse.EntryOut{}),
		"symlink": tree.Symlink(nil, &fuse.InHeader{}, "a", "b", &fuse.EntryOut{}),
		"link":    tree.Link(nil, &fuse.LinkIn{}, "a", &fuse.EntryOut{}),
		"unlink":  tree.Unlink(nil, &fuse.InHeader{}, "a"),
		"rmdir":   tree.Rmdir(nil, &fuse.InHeader{}, "a"),
		"rename":  tree.Rename(nil, &fuse.RenameIn{}, "a", "b"),
	} {
		if status != fuse.EPERM {
			t.Errorf("%s: %v", call, status)
		}
	}
	// The kernel reports success from then on.
	for call, status := range map[string]fuse.Status{
		"fsync":    tree.Fsync(nil, &fuse.FsyncIn{}),
		"fsyncdir": tree.FsyncDir(nil, &fuse.FsyncIn{}),
	} {
		if status != fuse.ENOSYS {
			t.Errorf("%s: %v", call, status)
		}
	}
}

// attributed has attributes.
type attributed struct{ fuse.RawFileSystem }

func (attributed) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Size = in.NodeId
	return fuse.OK
}

// "SETATTR of any size succeeds and changes nothing"; so does touch(1). chmod(1) and
// chown(1) are refused.
func TestSetAttr(t *testing.T) {
	tree := fixed{attributed{fuse.NewDefaultRawFileSystem()}}
	for valid, want := range map[uint32]fuse.Status{
		0:               fuse.OK,
		fuse.FATTR_SIZE: fuse.OK,
		fuse.FATTR_SIZE | fuse.FATTR_FH | fuse.FATTR_LOCKOWNER: fuse.OK,
		fuse.FATTR_ATIME | fuse.FATTR_MTIME:                    fuse.OK,
		fuse.FATTR_MODE:                                        fuse.EPERM,
		fuse.FATTR_UID:                                         fuse.EPERM,
		fuse.FATTR_GID:                                         fuse.EPERM,
		fuse.FATTR_MODE | fuse.FATTR_SIZE:                      fuse.EPERM,
	} {
		in := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: fuse.InHeader{NodeId: 5}, Valid: valid}}
		var out fuse.AttrOut
		if got := tree.SetAttr(nil, &in, &out); got != want {
			t.Errorf("%#x: %v, want %v", valid, got, want)
		} else if want.Ok() && out.Size != 5 {
			t.Errorf("%#x: the attributes are %+v", valid, out.Attr)
		}
	}
}
