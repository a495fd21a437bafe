// Command kubelet-judge is the part of the kubelet that deals with DRA drivers, and nothing else: plugin manager and DRA
// manager of Kubernetes as they are, driven by JSON lines on stdin. Every command gets one line on stdout.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
)

// command is one line of stdin.
type command struct {
	ID int    `json:"id"`
	Do string `json:"do"`
	// Of start: folders, and which Node this is.
	Registry string `json:"registry"`
	State    string `json:"state"`
	Node     string `json:"node"`
	// Of all others: the pod. It is read from the API server once, and remembered when it is gone there.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
}

// answer is one line of stdout.
type answer struct {
	ID    int    `json:"id"`
	Error string `json:"error,omitempty"`
	// Container to names of CDI devices.
	Devices map[string][]string `json:"devices,omitempty"`
	// Container to `claim:NAME/REQUEST RESOURCE HEALTH`, and the message if there is one.
	Health    map[string][]string `json:"health,omitempty"`
	MightNeed bool                `json:"mightNeed,omitempty"`
}

// judge holds the managers of the kubelet that runs now; a restart makes new ones on the same folders.
type judge struct {
	client kubernetes.Interface

	mutex   sync.Mutex
	manager *dra.Manager
	stop    context.CancelFunc
	pods    map[string]*v1.Pod
	active  map[types.UID]*v1.Pod
}

func main() {
	klog.LogToStderr(true)
	rest, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	j := &judge{client: kubernetes.NewForConfigOrDie(rest), pods: map[string]*v1.Pod{}, active: map[types.UID]*v1.Pod{}}
	var output sync.Mutex
	reply := func(a answer) {
		line, _ := json.Marshal(a)
		output.Lock()
		defer output.Unlock()
		fmt.Println(string(line))
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if c.Do == "start" || c.Do == "stop" {
			reply(j.run(c))
			continue
		}
		go func() { reply(j.run(c)) }()
	}
}

func (j *judge) run(c command) answer {
	a := answer{ID: c.ID}
	if err := j.do(context.Background(), c, &a); err != nil {
		a.Error = err.Error()
	}
	return a
}

func (j *judge) do(ctx context.Context, c command, a *answer) error {
	switch c.Do {
	case "start":
		return j.start(c)
	case "stop":
		j.stop()
		return nil
	}
	pod, err := j.pod(ctx, c)
	if err != nil {
		return err
	}
	manager := j.current()
	switch c.Do {
	case "prepare":
		j.setActive(pod, true)
		return manager.PrepareResources(ctx, pod)
	case "unprepare":
		j.setActive(pod, false)
		return manager.UnprepareResources(ctx, pod)
	case "mightNeed":
		a.MightNeed = manager.PodMightNeedToUnprepareResources(pod.UID)
		return nil
	case "devices":
		return devices(manager, pod, a)
	case "health":
		health(manager, pod, a)
		return nil
	}
	return fmt.Errorf("unknown command %q", c.Do)
}

func (j *judge) start(c command) error {
	ctx, cancel := context.WithCancel(context.Background())
	manager, err := dra.NewManager(klog.FromContext(ctx), j.client, c.State)
	if err != nil {
		cancel()
		return err
	}
	ready := config.NewSourcesReady(func(sets.Set[string]) bool { return true })
	node := func(ctx context.Context) (*v1.Node, error) {
		return j.client.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	}
	if err := manager.Start(ctx, j.activePods, node, ready); err != nil {
		cancel()
		return err
	}
	plugins := pluginmanager.NewPluginManager(c.Registry, &record.FakeRecorder{})
	plugins.AddHandler(registerapi.DRAPlugin, manager.GetWatcherHandler())
	go plugins.Run(ctx, ready, ctx.Done())
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.manager, j.stop = manager, cancel
	return nil
}

func (j *judge) current() *dra.Manager {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	return j.manager
}

func (j *judge) activePods() []*v1.Pod {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	pods := make([]*v1.Pod, 0, len(j.active))
	for _, pod := range j.active {
		pods = append(pods, pod)
	}
	return pods
}

func (j *judge) setActive(pod *v1.Pod, active bool) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	if active {
		j.active[pod.UID] = pod
	} else {
		delete(j.active, pod.UID)
	}
}

func (j *judge) pod(ctx context.Context, c command) (*v1.Pod, error) {
	key := c.Namespace + "/" + c.Pod
	j.mutex.Lock()
	known := j.pods[key]
	j.mutex.Unlock()
	if known != nil {
		return known, nil
	}
	pod, err := j.client.CoreV1().Pods(c.Namespace).Get(ctx, c.Pod, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.pods[key] = pod
	return pod, nil
}

func devices(manager *dra.Manager, pod *v1.Pod, a *answer) error {
	a.Devices = map[string][]string{}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		info, err := manager.GetResources(pod, container)
		if err != nil {
			return err
		}
		for _, device := range info.CDIDevices {
			a.Devices[container.Name] = append(a.Devices[container.Name], device.Name)
		}
	}
	return nil
}

func health(manager *dra.Manager, pod *v1.Pod, a *answer) {
	status := pod.Status.DeepCopy()
	status.ContainerStatuses = nil
	for _, container := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, v1.ContainerStatus{Name: container.Name})
	}
	switch told := any(manager).(type) {
	case interface{ UpdateAllocatedResourcesStatus(*v1.Pod, *v1.PodStatus) }: // 1.36
		told.UpdateAllocatedResourcesStatus(pod, status)
	case interface {
		UpdateAllocatedResourcesStatus(klog.Logger, *v1.Pod, *v1.PodStatus)
	}: // 1.37
		told.UpdateAllocatedResourcesStatus(klog.Background(), pod, status)
	}
	a.Health = map[string][]string{}
	for _, container := range status.ContainerStatuses {
		for _, resource := range container.AllocatedResourcesStatus {
			for _, each := range resource.Resources {
				line := fmt.Sprintf("%s %s %s", resource.Name, each.ResourceID, each.Health)
				if each.Message != nil && *each.Message != "" {
					line += " " + *each.Message
				}
				a.Health[container.Name] = append(a.Health[container.Name], line)
			}
		}
	}
}
