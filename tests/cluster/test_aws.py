"""The AWS files: Ray's own checks and bootstrap against a simulated account that has their stack."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
REGION = "us-west-2"
PARAMETERS = {
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
}
"""AWS's public parameters of images with Ubuntu 24.04."""
CARDS = {"p4d.24xlarge": 4, "p5.48xlarge": 32}
"""Network cards of instance types with EFA, by AWS's pages of the types."""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A simulated account with the stack in a private subnet: the stack's outputs."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "simulated")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes the SSH key there
        with warnings.catch_warnings():  # of kinds of resources that moto leaves out
            warnings.simplefilter("ignore", UserWarning)
            yield deploy_stack()


def deploy_stack() -> dict[str, str]:
    ec2, stacks = boto3.client("ec2", REGION), boto3.client("cloudformation", REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    given = {"Vpc": vpc, "Subnet": subnet, "Bucket": "checkpoints"}
    stacks.create_stack(
        StackName="qdet",
        TemplateBody=(CLUSTER / "aws-stack.yaml").read_text(),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    (stack,) = stacks.describe_stacks(StackName="qdet")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}


def read_config(outputs: dict[str, str]) -> dict[str, Any]:
    text = (CLUSTER / "aws-gpu.yaml").read_text()
    for name, value in outputs.items():
        assert name in text
        text = text.replace(name, value)
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def bootstrapped(account: dict[str, str]) -> dict[str, Any]:
    """The cluster file after Ray's checks and bootstrap."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read_config(account))
    validate_config(config)
    return bootstrap_aws(config)


def test_ray_s_checks_refuse_a_setting_that_ray_does_not_have(account: dict[str, str]):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read_config(account) | {"idle_timeout": 10}
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_bootstrap_keeps_to_the_stack(bootstrapped: dict[str, Any], account: dict[str, str]):
    """Ray makes no role, group or image of its own: those would be open to all, or years old."""
    for name, node_type in bootstrapped["available_node_types"].items():
        config = node_type["node_config"]
        assert set(config["SubnetIds"]) == {account["SUBNET"]}, name
        assert set(config["SecurityGroupIds"]) == {account["GROUP"]}, name
        assert config["ImageId"].removeprefix("resolve:ssm:") in PARAMETERS, name
    assert bootstrapped["head_node"] == {}
    names = [
        group["GroupName"]
        for group in boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
    ]
    assert not [name for name in names if name.startswith("ray-")]


def launch(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Let Ray's provider launch a node of a type; return what EC2 says of it."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    node_config = copy.deepcopy(config["available_node_types"][kind]["node_config"])
    (name,) = provider.create_node(node_config, {"ray-node-kind": "worker"}, 1)
    (found,) = boto3.client("ec2", REGION).describe_instances(InstanceIds=[name])["Reservations"]
    return found["Instances"][0]


@pytest.mark.parametrize("kind", ["head", "gpu-a100", "gpu-h100"])
def test_every_node_is_launched_as_the_file_says(
    bootstrapped: dict[str, Any], account: dict[str, str], kind: str
):
    node = launch(bootstrapped, kind)
    assert not node.get("PublicIpAddress")
    assert node["SubnetId"] == account["SUBNET"]
    role = "qdet-head" if kind == "head" else "qdet-worker"
    assert node["IamInstanceProfile"]["Arn"].endswith(f"/{role}")
    assert (node.get("InstanceLifecycle") == "spot") == (kind != "head")


@pytest.mark.parametrize("kind", ["gpu-a100", "gpu-h100"])
def test_every_network_card_has_efa(bootstrapped: dict[str, Any], kind: str):
    config = bootstrapped["available_node_types"][kind]["node_config"]
    cards = CARDS[config["InstanceType"]]
    found = [
        (one["NetworkCardIndex"], one["DeviceIndex"], one["InterfaceType"])
        for one in config["NetworkInterfaces"]
    ]
    assert found == [(0, 0, "efa"), *((card, 1, "efa-only") for card in range(1, cards))]


@pytest.mark.parametrize("kind", ["gpu-a100", "gpu-h100"])
def test_nodes_with_efa_are_placed_in_the_stack_s_group(bootstrapped: dict[str, Any], kind: str):
    """moto launches nodes without one, so this reads both files."""
    (placement,) = [
        one for one in read_stack()["Resources"].values() if one["Type"].endswith("PlacementGroup")
    ]
    config = bootstrapped["available_node_types"][kind]["node_config"]
    assert config["Placement"]["GroupName"] == placement["Properties"]["GroupName"]
    assert placement["Properties"]["Strategy"] == "cluster"


def read_stack() -> dict[str, Any]:
    """Return the stack's template; its functions, such as !Ref, become their argument."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, name, node: loader.construct_scalar(node))
    return yaml.load((CLUSTER / "aws-stack.yaml").read_text(), Loader)


def test_only_the_group_itself_and_ssh_reach_a_node(account: dict[str, str]):
    (group,) = boto3.client("ec2", REGION).describe_security_groups(GroupIds=[account["GROUP"]])[
        "SecurityGroups"
    ]
    ssh, inside = sorted(group["IpPermissions"], key=lambda rule: rule["IpProtocol"], reverse=True)
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpRanges"][0]["CidrIp"]) == (22, 22, "10.0.0.0/8")
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [account["GROUP"]]
    assert not inside["IpRanges"]
    outward = read_stack()["Resources"]["ToGroup"]["Properties"]  # moto leaves it out
    assert (outward["GroupId"], outward["DestinationSecurityGroupId"]) == ("Group", "Group")


def test_the_head_may_look_images_up_and_hand_out_only_the_workers_role(account: dict[str, str]):
    iam = boto3.client("iam", REGION)
    policy = iam.get_role_policy(RoleName="qdet-head", PolicyName="autoscaler")["PolicyDocument"]
    document = policy if isinstance(policy, dict) else yaml.safe_load(policy)
    granted = {
        action: one["Resource"]
        for one in document["Statement"]
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    assert granted["iam:PassRole"] == iam.get_role(RoleName="qdet-worker")["Role"]["Arn"]
    assert granted["ssm:GetParameters"].endswith("parameter/aws/service/*")
    assert iam.list_role_policies(RoleName="qdet-worker")["PolicyNames"] == []


def test_every_node_mounts_the_file_system_and_starts_ray_behind_a_token(account: dict[str, str]):
    config = read_config(account)
    assert any(
        f"{account['FILESYSTEM']}.efs.{config['provider']['region']}." in line
        for line in config["setup_commands"]
    )
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token QDET_ROOT=/shared" in command
        assert command.startswith("cd ~/qdet")  # where Ray looks for the entry points of jobs
