"""What the registry, an installer and a reader of the repository take for granted."""

import re
import subprocess

import pytest
import tomllib

MAX_LINES = 320
# what ComfyUI's registry parser accepts; one unknown value empties the list
OPERATING_SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}
# joined here, or this file would be found
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:" + b"|".join([b"work", b"root", b"home"]) + rb")/")
# of the pack itself; joined as well
ADDRESS = re.compile(rb"(?i)(?:https?://|git@|github\.com)[^\s)\"'<>`]*motion-?" + rb"cache")
INVENTED = b"github.com/motion" + b"cache"


@pytest.fixture(scope="module")
def pyproject(root):
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def files(root):
    """Every file that git tracks or would add."""
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: there is no list of the pack's own files")
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    )
    found = [root / name for name in listed.stdout.split("\0") if name]
    assert found
    return [file for file in found if file.is_file()]


def test_registry_fields(pyproject):
    project, comfy = pyproject["project"], pyproject["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,99}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["dependencies"] == []
    assert comfy["DisplayName"] == "MotionCache"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    # whoever publishes the pack fills in both, or neither
    assert ("PublisherId" in comfy) == ("Repository" in project.get("urls", {}))


def test_classifiers_are_known_to_the_registry(pyproject):
    kinds = {"Operating System": [], "Environment": [], "Programming Language": []}
    for classifier in pyproject["project"]["classifiers"]:
        kind, _, value = classifier.partition(" :: ")
        kinds[kind].append(value)
    assert kinds["Operating System"] and kinds["Environment"]
    assert all(value.startswith(OPERATING_SYSTEMS) for value in kinds["Operating System"])
    assert set(kinds["Environment"]) <= ACCELERATORS


def test_one_version(root, pyproject):
    version = pyproject["project"]["version"]
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)[1] == version
    entry = (root / "__init__.py").read_text("utf-8")
    assert re.search(r'^__version__ = "(.+)"$', entry, re.MULTILINE)[1] == version


def test_files_that_the_metadata_names_exist(root, pyproject):
    project = pyproject["project"]
    for name in (project["readme"], project["license"]["file"]):
        assert (root / name).is_file(), name


def test_installing_the_requirements_changes_nothing(root):
    lines = (root / "requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_wheel_has_every_package_under_one_name(root, pyproject):
    wheel = pyproject["tool"]["setuptools"]
    assert wheel["package-dir"] == {"comfyui_motioncache": "."}
    expected = {"comfyui_motioncache"}
    for package in ("kernels", "motioncache_core", "nodes"):
        for file in (root / package).rglob("*.py"):
            folder = file.parent.relative_to(root)
            # how the shipped model was made stays in the checkout
            if folder.name != "training":
                expected.add(".".join(("comfyui_motioncache", *folder.parts)))
    assert set(wheel["packages"]) == expected


def test_every_package_folder_has_an_init(root):
    for package in ("kernels", "motioncache_core", "nodes"):
        for file in (root / package).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file.parent


def test_files_hold_one_idea(root, files):
    long = {
        file.relative_to(root).as_posix(): lines
        for file in files
        if file.suffix == ".py" and (lines := len(file.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines: {long}"


def lines_with(root, files, wrong):
    """Where a line of a text file is wrong."""
    found = []
    for file in files:
        content = file.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.splitlines(), 1):
            if wrong(line):
                found.append(f"{file.relative_to(root).as_posix()}:{number}")
    return found


def test_no_path_of_a_machine(root, files):
    found = lines_with(root, files, MACHINE_PATH.search)
    assert not found, "\n".join(found)


def test_no_address_that_does_not_exist(root, files, pyproject):
    """The pack's own addresses are the publisher's, once there is one."""
    repository = pyproject["project"].get("urls", {}).get("Repository")

    def invented(line):
        return any(
            INVENTED in address.lower() or not repository or repository.encode() not in line
            for address in ADDRESS.findall(line)
        )

    found = lines_with(root, files, invented)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", [b"cd /@/main", b'"/@/x"', b"PATH=/@/bin"])
def test_a_path_of_a_machine_is_seen(line):
    for name in (b"work", b"root", b"home"):
        assert MACHINE_PATH.search(line.replace(b"@", name))
    assert not MACHINE_PATH.search(b"https://host.example" + line[line.index(b"/") :])


@pytest.mark.parametrize("start", [b"https://host.example/a/", b"git@host.example:a/"])
def test_an_address_of_the_pack_is_seen(start):
    for name in (b"Motion", b"ComfyUI-Motion", b"comfyui-motion-"):
        assert ADDRESS.search(b"git clone " + start + name + b"Cache")
    assert not ADDRESS.search(start + b"other")
