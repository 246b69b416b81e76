// Disks on datastores as ESXi keeps them: a descriptor, and beside it what the guest sees. In the
// place of govmomi's file of that name (Apache-2.0), whose disks are empty files without a size.
package simulator

import (
	"fmt"
	"io"
	"io/ioutil"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type VirtualDiskManager struct {
	mo.VirtualDiskManager
}

func (m *VirtualDiskManager) MO() mo.VirtualDiskManager {
	return m.VirtualDiskManager
}

const descriptor = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=%s
createType="%s"
%s
# Extent description
RW %d VMFS "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.thinProvisioned = "1"
ddb.virtualHWVersion = "13"
`

var extent = regexp.MustCompile(`(?m)^RW (\d+) VMFS "(.*)"$`)

// vdmNames answers where a disk's content is, and its descriptor.
func vdmNames(name string) []string {
	return []string{strings.Replace(name, ".vmdk", "-flat.vmdk", 1), name}
}

func describeDisk(file string, sectors int64, parent string) error {
	id, kind, hint := "ffffffff", "vmfs", ""
	if parent != "" {
		id, kind, hint = "fffffffe", "vmfsSparse", fmt.Sprintf("parentFileNameHint=%q\n", path.Base(parent))
	}
	text := fmt.Sprintf(descriptor, id, kind, hint, sectors, path.Base(vdmNames(file)[0]))
	return ioutil.WriteFile(file, []byte(text), 0600)
}

// diskCapacityKB is what a descriptor says.
func diskCapacityKB(file string) int64 {
	text, err := ioutil.ReadFile(file)
	if err != nil {
		return 0
	}
	if found := extent.FindSubmatch(text); found != nil {
		sectors, _ := strconv.ParseInt(string(found[1]), 10, 64)
		return sectors / 2
	}
	return 0
}

// renamed has the descriptor lead to its content again.
func renamed(file string) error {
	text, err := ioutil.ReadFile(file)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("RW $1 VMFS \"%s\"", path.Base(vdmNames(file)[0]))
	return ioutil.WriteFile(file, extent.ReplaceAll(text, []byte(line)), 0600)
}

// setDiskDevice makes, or finds, the file of a disk that a VM is given.
func setDiskDevice(op types.VirtualDeviceConfigSpecFileOperation, dc types.ManagedObjectReference, disk *types.VirtualDisk, name string) types.BaseMethodFault {
	parent := ""
	if b, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.Parent != nil {
		parent = b.Parent.FileName
	}
	if fault := makeDisk(op, &dc, name, disk.CapacityInKB, parent); fault != nil {
		return fault
	}
	if op == "" {
		file, fault := Map.FileManager().resolve(&dc, name)
		if fault != nil {
			return fault
		}
		disk.CapacityInKB = diskCapacityKB(file)
	}
	return nil
}

func makeDisk(op types.VirtualDeviceConfigSpecFileOperation, dc *types.ManagedObjectReference, name string, capacityKB int64, parent string) types.BaseMethodFault {
	fm := Map.FileManager()
	file, fault := fm.resolve(dc, name)
	if fault != nil {
		return fault
	}
	parentFile := ""
	if parent != "" {
		if parentFile, fault = fm.resolve(dc, parent); fault != nil {
			return fault
		}
		if _, err := os.Stat(parentFile); err != nil {
			return fm.fault(parent, err, new(types.FileNotFound))
		}
	}
	_, err := os.Stat(file)
	if op == "" {
		if err != nil {
			return fm.fault(name, err, new(types.FileNotFound))
		}
		return nil
	}
	if err == nil && op != types.VirtualDeviceConfigSpecFileOperationReplace {
		return fm.fault(name, nil, new(types.FileAlreadyExists))
	}
	flat, err := os.Create(vdmNames(file)[0])
	if err != nil {
		return fm.fault(name, err, new(types.CannotCreateFile))
	}
	err = flat.Truncate(capacityKB << 10)
	if err == nil && parentFile != "" {
		err = fill(flat, parentFile)
	}
	_ = flat.Close()
	if err == nil {
		err = describeDisk(file, capacityKB*2, parent)
	}
	if err != nil {
		return fm.fault(name, err, new(types.CannotCreateFile))
	}
	return nil
}

// vdmCreateVirtualDisk is what govmomi's other files call it.
func vdmCreateVirtualDisk(op types.VirtualDeviceConfigSpecFileOperation, req *types.CreateVirtualDisk_Task) types.BaseMethodFault {
	capacityKB := int64(0)
	if spec, ok := req.Spec.(*types.FileBackedVirtualDiskSpec); ok {
		capacityKB = spec.CapacityKb
	}
	return makeDisk(op, req.Datacenter, req.Name, capacityKB, "")
}

func (m *VirtualDiskManager) CreateVirtualDiskTask(_ *Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	task := CreateTask(m, "createVirtualDisk", func(*Task) (types.AnyType, types.BaseMethodFault) {
		create := types.VirtualDeviceConfigSpecFileOperationCreate
		if fault := vdmCreateVirtualDisk(create, req); fault != nil {
			return nil, fault
		}
		return req.Name, nil
	})
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

func (m *VirtualDiskManager) DeleteVirtualDiskTask(_ *Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	task := CreateTask(m, "deleteVirtualDisk", func(*Task) (types.AnyType, types.BaseMethodFault) {
		for _, name := range vdmNames(req.Name) {
			fault := Map.FileManager().deleteDatastoreFile(&types.DeleteDatastoreFile_Task{
				Name:       name,
				Datacenter: req.Datacenter,
			})
			if fault != nil {
				return nil, fault
			}
		}
		return nil, nil
	})
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

func (m *VirtualDiskManager) MoveVirtualDiskTask(_ *Context, req *types.MoveVirtualDisk_Task) soap.HasFault {
	task := CreateTask(m, "moveVirtualDisk", func(*Task) (types.AnyType, types.BaseMethodFault) {
		fm, dest := Map.FileManager(), vdmNames(req.DestName)
		for i, name := range vdmNames(req.SourceName) {
			fault := fm.moveDatastoreFile(&types.MoveDatastoreFile_Task{
				SourceName:            name,
				SourceDatacenter:      req.SourceDatacenter,
				DestinationName:       dest[i],
				DestinationDatacenter: req.DestDatacenter,
				Force:                 req.Force,
			})
			if fault != nil {
				return nil, fault
			}
		}
		return nil, relink(req.DestDatacenter, req.SourceDatacenter, req.DestName)
	})
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

func (m *VirtualDiskManager) CopyVirtualDiskTask(_ *Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	task := CreateTask(m, "copyVirtualDisk", func(*Task) (types.AnyType, types.BaseMethodFault) {
		if req.DestSpec != nil && Map.IsVPX() {
			return nil, new(types.NotImplemented) // nor does a real vCenter
		}
		fm, dest := Map.FileManager(), vdmNames(req.DestName)
		for i, name := range vdmNames(req.SourceName) {
			fault := fm.copyDatastoreFile(&types.CopyDatastoreFile_Task{
				SourceName:            name,
				SourceDatacenter:      req.SourceDatacenter,
				DestinationName:       dest[i],
				DestinationDatacenter: req.DestDatacenter,
				Force:                 req.Force,
			})
			if fault != nil {
				return nil, fault
			}
		}
		return nil, relink(req.DestDatacenter, req.SourceDatacenter, req.DestName)
	})
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

func relink(dest, source *types.ManagedObjectReference, name string) types.BaseMethodFault {
	if dest == nil {
		dest = source
	}
	fm := Map.FileManager()
	file, fault := fm.resolve(dest, name)
	if fault != nil {
		return fault
	}
	if err := renamed(file); err != nil {
		return fm.fault(name, err, new(types.CannotAccessFile))
	}
	return nil
}

func (m *VirtualDiskManager) ExtendVirtualDiskTask(_ *Context, req *types.ExtendVirtualDisk_Task) soap.HasFault {
	task := CreateTask(m, "extendVirtualDisk", func(*Task) (types.AnyType, types.BaseMethodFault) {
		fm := Map.FileManager()
		file, fault := fm.resolve(req.Datacenter, req.Name)
		if fault != nil {
			return nil, fault
		}
		if _, err := os.Stat(file); err != nil {
			return nil, fm.fault(req.Name, err, new(types.FileNotFound))
		}
		if req.NewCapacityKb < diskCapacityKB(file) {
			return nil, &types.InvalidArgument{InvalidProperty: "newCapacityKb"}
		}
		err := os.Truncate(vdmNames(file)[0], req.NewCapacityKb<<10)
		if err == nil {
			err = describeDisk(file, req.NewCapacityKb*2, "")
		}
		if err != nil {
			return nil, fm.fault(req.Name, err, new(types.CannotAccessFile))
		}
		return nil, nil
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: task.Run()}}
}

func (m *VirtualDiskManager) QueryVirtualDiskUuid(_ *Context, req *types.QueryVirtualDiskUuid) soap.HasFault {
	body, fm := new(methods.QueryVirtualDiskUuidBody), Map.FileManager()
	file, fault := fm.resolve(req.Datacenter, req.Name)
	if fault == nil {
		if _, err := os.Stat(file); err != nil {
			fault = fm.fault(req.Name, err, new(types.CannotAccessFile))
		}
	}
	if fault != nil {
		body.Fault_ = Fault("", fault)
		return body
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(file)).String()
	body.Res = &types.QueryVirtualDiskUuidResponse{Returnval: id}
	return body
}

func (m *VirtualDiskManager) SetVirtualDiskUuid(_ *Context, _ *types.SetVirtualDiskUuid) soap.HasFault {
	return &methods.SetVirtualDiskUuidBody{Res: new(types.SetVirtualDiskUuidResponse)}
}

// ---- uploads through a lease: what comes is a streamOptimized VMDK, what is kept is not

type upload struct {
	*os.File
	disk string
}

// uploaded is where a disk's bytes go; anything else goes nowhere, as before.
func uploaded(file string, elsewhere io.Writer) io.Writer {
	if path.Ext(file) != ".vmdk" {
		return elsewhere
	}
	f, err := os.Create(file + ".upload")
	if err != nil {
		return elsewhere
	}
	return &upload{f, file}
}

// published turns the upload into the disk.
func published(dst io.Writer) error {
	u, ok := dst.(*upload)
	if !ok {
		return nil
	}
	_ = u.Close()
	defer os.Remove(u.Name())
	flat := vdmNames(u.disk)[0]
	if out, err := exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", "--", u.Name(), flat).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s", err, out)
	}
	info, err := os.Stat(flat)
	if err != nil {
		return err
	}
	return describeDisk(u.disk, info.Size()/512, "")
}

// tellCapacity completes what a search says of a disk.
func tellCapacity(res *types.HostDatastoreBrowserSearchResults, file string) {
	if len(res.File) == 0 {
		return
	}
	if disk, ok := res.File[len(res.File)-1].(*types.VmDiskFileInfo); ok {
		disk.CapacityKb = diskCapacityKB(file)
	}
}
