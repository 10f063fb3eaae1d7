"""What can be wrong with a store, and with what other commands are asked."""

from tests.hostile.breaking import file_as_store, folder_in_a_file, store_is
from tests.hostile.fault import PLAN, RUN, Fault

STORES = [
    Fault(
        "store is a file",
        file_as_store,
        ("needs a folder where a file lies", "move it, or name another store"),
        (PLAN, RUN),
    ),
    Fault(
        "store below a file",
        folder_in_a_file,
        ("needs a folder where a file lies", "move it, or name another store"),
        (PLAN, RUN),
    ),
    Fault(
        "unknown store protocol",
        store_is("warp://bucket/store"),
        ("warp://bucket/store", "name a folder or an fsspec URL"),
        (PLAN, RUN),
    ),
    Fault(
        "store where no folder can be",
        store_is("/proc/cnt-store"),
        ("/proc/cnt-store", "name another store"),
        (RUN,),
        step="models/donor",
    ),
]
OTHER_COMMANDS = [
    Fault(
        "labels that are not there",
        lambda b: None,
        ("absent.csv cannot be read as labels", "give a CSV file"),
        (("judge-check", "--labels", "{root}/absent.csv"),),
    ),
    Fault(
        "columns of no labels",
        lambda b: None,
        ("--columns says how --labels FILE.csv is read", "give both, or neither"),
        (("judge-check", "--columns", "prompt=p"),),
    ),
    Fault(
        "a judge that the study has not",
        lambda b: b.put("judges", [{"name": "phrases", "kind": "phrases"}]),
        ("there is no judge 'oracle'", "choose among phrases"),
        (("judge-check", "{study}", "--judge", "oracle"),),
    ),
    Fault(
        "judges of a study without any",
        lambda b: None,
        ("study.yaml:judges: this study names no judge", "leave the study out"),
        (("judge-check", "{study}"),),
    ),
    Fault(
        "bad SQL",
        lambda b: None,
        ("the SQL cannot be answered", "Parser Error"),
        (("query", "selec 1", "--store", "{store}"),),
    ),
    Fault(
        "unknown view",
        lambda b: None,
        ("Table with name nothing does not exist",),
        (("query", "select * from nothing", "--store", "{store}"),),
    ),
    Fault(
        "SQL that changes",
        lambda b: None,
        ("only reads", "SELECT"),
        (("query", "create table a (b int)", "--store", "{store}"),),
    ),
    Fault(
        "two questions at once",
        lambda b: None,
        ("give one SQL statement",),
        (("query", "select 1; select 2", "--store", "{store}"),),
    ),
    Fault(
        "view of an empty store",
        lambda b: None,
        ("holds nothing for the view metrics yet", "run a study first"),
        (("query", "select * from metrics", "--store", "{store}"),),
    ),
    Fault(
        "report before a run",
        lambda b: None,
        ("report of small is not built", "run `cnt run"),
        (("report", "{study}", "--store", "{store}"),),
    ),
    Fault(
        "init onto a file",
        lambda b: None,
        ("exists already and is left as it is", "name another file"),
        (("init", "{study}"),),
    ),
    Fault(
        "init below a file", lambda b: None, ("cannot be written", "name a place"), (("init", "{study}/inner.yaml"),)
    ),
    Fault(
        "unknown document",
        lambda b: None,
        ("there is no document 'runs'", "run, plan, status, donors, leaderboard, judge-check, verify, replay, study"),
        (("schema", "runs"),),
    ),
    Fault(
        "apply of nothing",
        lambda b: None,
        ("is no file", "`cnt export`"),
        (("apply", "{root}/none", "--target", "{root}", "--out", "{root}/out"),),
    ),
    Fault(
        "apply of what is no patch",
        lambda b: b.own("target"),
        ("no intact forward patch", "restore it"),
        (("apply", "{root}/target/config.json", "--target", "{root}/target", "--out", "{root}/out"),),
    ),
    Fault(
        "revert of nothing",
        lambda b: None,
        ("is no folder", "give the checkpoint"),
        (("revert", "{root}/none", "--out", "{root}/out"),),
    ),
    Fault(
        "revert without a patch",
        lambda b: b.own("target"),
        ("no inverse patch", "--patch"),
        (("revert", "{root}/target", "--out", "{root}/out"),),
    ),
    Fault(
        "gc for a missing study",
        lambda b: b.study_file.unlink(),
        ("no such study file",),
        (("gc", "{study}", "--store", "{store}"),),
    ),
    Fault(
        "UI of a missing study",
        lambda b: b.study_file.unlink(),
        ("no study file there", "cnt init"),
        (("ui", "{study}", "--store", "{store}"),),
    ),
]
