# Uses the API at the first argument with boto3, and the port of the second one.
import sys
import boto3
from botocore.config import Config

url, port = sys.argv[1], int(sys.argv[2])
elb = boto3.client("elb", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}))
quick = {"Delay": 0.05, "MaxAttempts": 600}
ids = [{"InstanceId": i} for i in ("i-11111111", "i-22222222", "i-33333333")]
lb = {"LoadBalancerName": "my-loadbalancer"}

listener = {"Protocol": "HTTP", "LoadBalancerPort": port, "InstancePort": 80}
for _ in range(2):  # again with the same configuration
    name = elb.create_load_balancer(Listeners=[listener], AvailabilityZones=["us-east-1a", "us-east-1b"], **lb)["DNSName"]
    assert name == "my-loadbalancer.elb.localhost", name
elb.register_instances_with_load_balancer(Instances=ids, **lb)
elb.get_waiter("any_instance_in_service").wait(WaiterConfig=quick, **lb)
elb.get_waiter("instance_in_service").wait(WaiterConfig=quick, Instances=ids, **lb)

elb.modify_load_balancer_attributes(LoadBalancerAttributes={"ConnectionDraining": {"Enabled": True, "Timeout": 60}}, **lb)
left = elb.deregister_instances_from_load_balancer(Instances=ids[:1], **lb)["Instances"]
assert left == ids[1:], left
elb.get_waiter("instance_deregistered").wait(WaiterConfig=quick, Instances=ids[:1], **lb)
elb.get_waiter("instance_deregistered").wait(WaiterConfig=quick, Instances=[{"InstanceId": "i-00000000"}], **lb)

described = elb.describe_load_balancers()["LoadBalancerDescriptions"][0]
assert described["Subnets"] == [] and described["CreatedTime"].tzinfo is not None, described

for exception, call in {
    elb.exceptions.AccessPointNotFoundException: lambda: elb.describe_load_balancers(LoadBalancerNames=["none"]),
    elb.exceptions.DuplicateAccessPointNameException: lambda: elb.create_load_balancer(Listeners=[listener], AvailabilityZones=["us-east-1c"], **lb),
    elb.exceptions.InvalidEndPointException: lambda: elb.register_instances_with_load_balancer(Instances=[{"InstanceId": "i-00000000"}], **lb),
    elb.exceptions.PolicyNotFoundException: lambda: elb.set_load_balancer_policies_of_listener(LoadBalancerPort=port, PolicyNames=["none"], **lb),
    elb.exceptions.ListenerNotFoundException: lambda: elb.set_load_balancer_policies_of_listener(LoadBalancerPort=1, PolicyNames=[], **lb),
    elb.exceptions.UnsupportedProtocolException: lambda: elb.create_load_balancer_listeners(Listeners=[dict(listener, Protocol="UDP")], **lb),
    elb.exceptions.PolicyTypeNotFoundException: lambda: elb.create_load_balancer_policy(PolicyName="p", PolicyTypeName="none", **lb),
    elb.exceptions.InvalidConfigurationRequestException: lambda: elb.disable_availability_zones_for_load_balancer(AvailabilityZones=["us-east-1a", "us-east-1b"], **lb),
    elb.exceptions.DuplicateTagKeysException: lambda: elb.add_tags(LoadBalancerNames=["my-loadbalancer"], Tags=[{"Key": "a"}, {"Key": "a"}]),
}.items():
    try:
        call()
    except exception:
        continue
    raise AssertionError(f"{exception} was not raised")
